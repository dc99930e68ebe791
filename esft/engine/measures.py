"""How far weights have drifted: in all, layer by layer, and how many have not moved."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esft.engine.drift import Drift
from esft.engine.forecast import Law
from esft.engine.stream import Tally, length
from esft.engine.undo import differing
from esft.engine.weights import Weights

_PIECE = 1 << 20  # elements that are compared at a time


@dataclass(frozen=True, kw_only=True)
class LayerDrift:
    """||D|| of the parameters of one layer, see `layer_of`."""

    name: str
    norm: float
    numel: int


@dataclass(frozen=True, kw_only=True)
class DriftMeasures:
    """The drift D = theta - theta_0 of the tuned weights, tied ones counted once."""

    norm: float
    zero_share: float
    """Share of elements where D, as it is kept, is 0."""
    unmoved_share: float
    """Share of weights that have the bits of theta_0: D is 0, or too small to change them."""
    layers: tuple[LayerDrift, ...]  # in the module's order


def measures(drift: Drift) -> DriftMeasures:
    """Measure a drift, piece by piece within the scratch of its weights, wherever it lies."""
    weights = drift.weights
    drift.refuse_if_torn()
    norms: dict[str, Tally] = {}
    counts, numels = Tally(), Counter()
    with weights.held("measures"):
        for piece, base, values in drift.streamed():
            counts.note("zero", (values == 0).sum())
            counts.note("unmoved", (differing(piece.flat, base, piece.grid) == 0).sum())
            layer = layer_of(piece.name)
            norms.setdefault(layer, Tally()).note(piece.name, length(values))
            numels[layer] += piece.count
    squares = {layer: tally.sum_of_squares() for layer, tally in norms.items()}
    totals = Counter()
    for name, count in counts.read():
        totals[name] += count
    return DriftMeasures(
        norm=math.sqrt(sum(squares.values())),
        zero_share=totals["zero"] / weights.numel,
        unmoved_share=totals["unmoved"] / weights.numel,
        layers=_layers(squares, numels),
    )


def distance(model: nn.Module, base: Mapping[str, Tensor]) -> DriftMeasures:
    """Measure how far the parameters of a model are from others of the same names, piece by piece;
    those that `base` does not have are passed over.

    Args:
        base: canonical name -> a tensor with as many elements, on any device.

    Raises:
        ValueError: if it has none of them.
    """
    norms: dict[str, Tally] = {}
    same, numels = Tally(), Counter()
    for name, parameter in model.named_parameters():
        if name not in base:
            continue
        layer, flat = layer_of(name), parameter.detach().reshape(-1)
        numels[layer] += flat.numel()
        for piece, before in zip(
            flat.split(_PIECE), base[name].view(-1).split(_PIECE), strict=True
        ):
            change = piece.float() - before.to(piece.device).float()
            same.note("same", (change == 0).sum())
            norms.setdefault(layer, Tally()).note(name, length(change))
    if not numels.total():
        raise ValueError("no parameter has the name of another")
    squares = {layer: tally.sum_of_squares() for layer, tally in norms.items()}
    share = sum(count for _, count in same.read()) / numels.total()
    return DriftMeasures(
        norm=math.sqrt(sum(squares.values())),
        zero_share=share,
        unmoved_share=share,
        layers=_layers(squares, numels),
    )


def _layers(squares: Mapping[str, float], numels: Mapping[str, int]) -> tuple[LayerDrift, ...]:
    return tuple(
        LayerDrift(name=layer, norm=math.sqrt(square), numel=numels[layer])
        for layer, square in squares.items()
    )


def root_mean_square(weights: Weights) -> float:
    """Return the root of the mean square of all tuned weights, tied ones counted once; of codes
    around the middle of their grid, in steps of it where members take whole ones."""
    squares = Tally()
    for piece in weights.pieces():
        values = piece.flat
        if (grid := piece.grid) is not None:
            values = grid.unpack(values).float() - (grid.low + grid.high) / 2
            if not weights.whole_steps:
                values *= piece.scales()
        squares.note(piece.name, length(values))
    return math.sqrt(squares.sum_of_squares() / weights.numel)


def layer_of(name: str) -> str:
    """Return the layer of a parameter: its name up to the first number, else its module's name.

    So model.layers.3 of model.layers.3.mlp.up_proj.weight, and model.norm of model.norm.weight.
    """
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdecimal()), len(parts) - 2)
    return ".".join(parts[: first + 1]) or name


def law_of_weights(weights: Weights) -> Law:
    """Return what noise the drift of some weights is made of, as they are."""
    if weights.whole_steps:
        return Law(whole_steps=True, at_bounds=share_at_bounds(weights))
    return Law(units=_units(weights)) if weights.coded else Law()


def share_at_bounds(weights: Weights) -> float:
    """Return the share of codes at an end of their grid: steps beyond it are not made."""
    at_bounds, codes = 0, 0
    for piece in weights.pieces():
        if (grid := piece.grid) is not None:
            values = grid.unpack(piece.flat)
            at_bounds += int(((values == grid.low) | (values == grid.high)).sum())
            codes += values.numel()
    return at_bounds / codes if codes else 0.0


_KINDS = 1024
"""Twice as many as float32 has exponents, with room."""


def _units(weights: Weights) -> tuple[tuple[float, float], ...]:
    """Return how many steps of their grid a unit of the weights is: see `Law`.

    Two kinds an octave, each at the root of the mean square of those in it. Exact sums, so that it
    is the same wherever they are made.
    """
    counts, squares = (torch.zeros(_KINDS, dtype=torch.float64) for _ in range(2))
    for name in weights.names:
        scale = weights.scale(name)
        scale = torch.ones(1) if scale is None else scale.detach().cpu().float().abs().view(-1)
        units = scale.double().reciprocal().masked_fill_(scale == 0, 0)
        mantissa, exponent = torch.frexp(scale)
        kinds = (2 * exponent + (mantissa >= 0.75)).long() + _KINDS // 2
        kinds.masked_fill_(scale == 0, 0)
        share = weights.count(name) / scale.numel()
        counts += share * torch.bincount(kinds, minlength=_KINDS)
        squares += share * torch.bincount(kinds, units.square(), minlength=_KINDS)
    there = counts.nonzero().view(-1).tolist()
    total = weights.numel
    return tuple(
        (float(counts[kind]) / total, math.sqrt(float(squares[kind] / counts[kind])))
        for kind in there
    )
