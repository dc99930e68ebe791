"""How far weights have drifted: in all, layer by layer, and how many have not moved."""

import math
from collections import Counter
from dataclasses import dataclass

from esft.engine.drift import Drift
from esft.engine.stream import Tally, length
from esft.engine.undo import differing
from esft.engine.weights import Weights


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
        layers=tuple(
            LayerDrift(name=layer, norm=math.sqrt(square), numel=numels[layer])
            for layer, square in squares.items()
        ),
    )


def root_mean_square(weights: Weights) -> float:
    """Return the root of the mean square of all tuned weights, tied ones counted once; of codes
    around the middle of their grid."""
    squares = Tally()
    for piece in weights.pieces():
        values = piece.flat
        if (grid := piece.grid) is not None:
            values = grid.unpack(values).float() - (grid.low + grid.high) / 2
        squares.note(piece.name, length(values))
    return math.sqrt(squares.sum_of_squares() / weights.numel)


def layer_of(name: str) -> str:
    """Return the layer of a parameter: its name up to the first number, else its module's name.

    So model.layers.3 of model.layers.3.mlp.up_proj.weight, and model.norm of model.norm.weight.
    """
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdecimal()), len(parts) - 2)
    return ".".join(parts[: first + 1]) or name


def share_at_bounds(weights: Weights) -> float:
    """Return the share of codes at an end of their grid: steps beyond it are not made."""
    at_bounds, codes = 0, 0
    for piece in weights.pieces():
        if (grid := piece.grid) is not None:
            values = grid.unpack(piece.flat)
            at_bounds += int(((values == grid.low) | (values == grid.high)).sum())
            codes += values.numel()
    return at_bounds / codes if codes else 0.0
