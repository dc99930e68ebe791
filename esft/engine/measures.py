"""How far weights have drifted: in all, layer by layer, and how many have not moved."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.engine.drift import Drift
from esft.engine.tally import Tally, noted, read
from esft.engine.weights import Weights

_BITS = {2: torch.int16, 4: torch.int32}


@dataclass(frozen=True, kw_only=True)
class LayerDrift:
    """The drift of the parameters of one layer."""

    name: str
    """What their names begin with, see `layer_of`."""
    norm: float
    """||D|| over them."""
    numel: int
    """Their elements."""


@dataclass(frozen=True, kw_only=True)
class DriftMeasures:
    """The drift D = theta - theta_0 of the tuned weights, tied ones counted once."""

    norm: float
    """||D||, over all tuned weights."""
    zero_share: float
    """Share of elements where D, as it is kept, is 0."""
    unmoved_share: float
    """Share of weights that have the bits of theta_0: where D is 0, and where it is too small to
    change them when it is rounded."""
    layers: tuple[LayerDrift, ...]
    """In the module's order."""


def measures(drift: Drift) -> DriftMeasures:
    """Measure a drift, piece by piece within the scratch of its weights, wherever it lies.

    Raises:
        ValueError: if its weights are being held, by a member or `at_base`.
        AnchorError: if a step was interrupted half-way.
    """
    weights = drift.weights
    tallies: dict[str, Tally] = {}
    zeros, unmoved = [], []
    with weights.held("measures"):
        for piece, base, values in drift.streamed():
            zeros.append(noted((values == 0).sum()))
            unmoved.append(noted((_bits(piece.flat) == _bits(base)).sum()))
            tallies.setdefault(layer_of(piece.name), Tally()).note_norm(values)
    squares = {layer: tally.squares() for layer, tally in tallies.items()}
    return DriftMeasures(
        norm=math.sqrt(sum(squares.values())),
        zero_share=_total(zeros) / weights.numel,
        unmoved_share=_total(unmoved) / weights.numel,
        layers=_layers(weights, squares),
    )


def layer_of(name: str) -> str:
    """Return the layer of a parameter: its name up to the first number, else its module's name.

    So model.layers.3 of model.layers.3.mlp.up_proj.weight, and model.norm of model.norm.weight.
    """
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[: i + 1])
    return ".".join(parts[:-1]) or name


def _layers(weights: Weights, squares: dict[str, float]) -> tuple[LayerDrift, ...]:
    numels = dict.fromkeys(squares, 0)
    for name in weights.names:
        if numel := weights.flat(name).numel():  # of an empty parameter there are no pieces
            numels[layer_of(name)] += numel
    return tuple(
        LayerDrift(name=layer, norm=math.sqrt(square), numel=numels[layer])
        for layer, square in squares.items()
    )


def _bits(values: Tensor) -> Tensor:
    """View weights as integers: unlike values, bits tell -0.0 from 0.0."""
    return values.view(_BITS[values.element_size()])


def _total(counts: list[Tensor | float]) -> int:
    return int(sum(read(counts)))
