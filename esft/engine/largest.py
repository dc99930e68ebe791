"""The largest changes alone: theta_0 + D of those weights whose |D| is among the largest."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from esft.engine.drift import Drift
from esft.engine.kernels.reference import Part, Stored
from esft.engine.stream import Tally, length

_BITS = 8
"""How many of the 32 bits of |D| a pass tells, the highest first."""


@dataclass(frozen=True, kw_only=True)
class Largest:
    """The elements of D that are at least as large as one of them; of codes in steps of their
    grid."""

    percent: float
    """How many were asked for, of all tuned weights."""
    least: float
    """|D| of the smallest among them; where there are none, the smallest number above 0."""
    share: float
    """How many there are, of all tuned weights, 0 to 1: more where several are as large as the
    smallest, fewer where D is 0 elsewhere."""
    norm: float
    """||D|| of them alone."""


def largest(drift: Drift, percents: Sequence[float]) -> tuple[Largest, ...]:
    """Return, for each percentage above 0 up to 100, the largest elements of D, told exactly in
    five passes within the scratch of the weights. Where D is 0 it is never among them."""
    weights = drift.weights
    drift.refuse_if_torn()
    with weights.held("largest"):
        bounds = _smallest_of(drift, [max(1, round(p / 100 * weights.numel)) for p in percents])
        counts, lengths, least = ([Tally() for _ in bounds] for _ in range(3))
        for piece, _, values in drift.streamed():
            sizes = values.abs_()
            for number, bound in enumerate(bounds):
                chosen = sizes[sizes >= bound]
                counts[number].note(piece.name, chosen.numel())
                lengths[number].note(piece.name, length(chosen))
                if chosen.numel():
                    least[number].note(piece.name, chosen.min())
    return tuple(
        Largest(
            percent=percent,
            least=min((size for _, size in least[number].read()), default=bounds[number]),
            share=sum(count for _, count in counts[number].read()) / weights.numel,
            norm=math.sqrt(lengths[number].sum_of_squares()),
        )
        for number, percent in enumerate(percents)
    )


def at_largest(drift: Drift, least: float, scale: float = 1.0) -> AbstractContextManager[None]:
    """Hold round(theta_0 + scale * D) in the weights inside the block, with D = 0 where |D| <
    `least`; the exact bits after it."""

    def write() -> None:
        # Part by part: a kernel may read all parts it is given before it writes the first.
        for piece, base, values in drift.streamed():
            values[values.abs() < least] = 0
            values *= scale
            what = base, Stored(values), piece.factors, piece.grid
            drift.weights.kernels.compose([Part(piece.name, piece.start, piece.flat, *what)])

    return drift.holding("at_largest", write)


def _smallest_of(drift: Drift, wanted: Sequence[int]) -> list[float]:
    """Return the k-th largest |D| above 0 for each k; the smallest there can be where fewer are.

    Bits of floats of one sign rise as the floats do: a pass counts how often each value of the next
    few bits occurs behind those that are told already.
    """
    told, left = [0] * len(wanted), list(wanted)
    for shift in range(32 - _BITS, -1, -_BITS):
        counts = {bits: torch.zeros(1 << _BITS, dtype=torch.int64) for bits in told}
        for _, _, values in drift.streamed():
            bits = values.abs_().view(torch.int32) >> shift
            for upper, count in counts.items():
                behind = bits[bits >> _BITS == upper] & ((1 << _BITS) - 1)
                count += torch.bincount(behind, minlength=1 << _BITS).cpu()
        for number, upper in enumerate(told):
            down = counts[upper].flip(0).cumsum(0)
            place = int(torch.searchsorted(down, left[number]))
            left[number] -= int(down[place - 1]) if place else 0
            told[number] = (upper << _BITS) + (1 << _BITS) - 1 - place
    smallest = [max(1, bits) for bits in told]
    return torch.tensor(smallest, dtype=torch.int32).view(torch.float32).tolist()
