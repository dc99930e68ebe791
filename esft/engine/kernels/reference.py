"""The passes over a piece of the weights in plain torch: every faster form has the same bits.

A product always comes before its sum: a fused multiply-add rounds once where these round twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.engine.noise import Factors, drawn

BLOCK = 256
"""Elements that share a scale of an int8 drift; pieces start at multiples of it."""

TOP_CODE = 127
"""The largest code of int8; it stands for the largest magnitude of its block."""

SMALLEST_SCALE, LARGEST_SCALE = 2.0**-120, 2.0**121
"""Bounds of a scale, so that neither it nor scale * pull loses bits to the subnormals, and 127
scales are finite: drifts up to 1e-34 are kept more coarsely, and drifts above 3.3e38 as 3.3e38."""


@dataclass(frozen=True)
class Stored:
    """A piece of D as it is kept, and the numbers that make it float32."""

    values: Tensor
    """(count,): float32; float16, to be multiplied by `factor`; or int8, by `scales`."""
    scales: Tensor | None = None
    """(blocks,) float32: one for each BLOCK of int8 values."""
    factor: float = 1.0
    """A power of two."""
    owed: float = 0.0
    """What each int8 element is still to be shrunk by, as `decay_` does with norm "l1"."""


@dataclass(frozen=True)
class Part:
    """A piece of the weights to be written, and what is written there.

    `out` and `base` are (count,) in one dtype, elements from `start` on of the parameter `name`;
    they may be the same tensor.
    """

    name: str
    start: int
    out: Tensor
    base: Tensor
    drift: Stored | None = None
    factors: Factors | None = None
    """Of its noise; None where that is full."""

    @property
    def kept(self) -> tuple[Tensor | None, Tensor | None, float, float]:
        """Values, scales, factor and owed of D, see `Stored`; None, None, 1, 0 without one."""
        drift = self.drift
        if drift is None:
            return None, None, 1.0, 0.0
        return drift.values, drift.scales, drift.factor, drift.owed


@dataclass(frozen=True)
class Update:
    """The numbers of one step, the same for all pieces."""

    nets: Sequence[tuple[int, float]]
    """(seed, coefficient) of each noise."""
    scale: float
    """What their sum is multiplied by: alpha / N."""
    pull: float
    norm: str
    """See `decay_`."""
    rounding: int
    """Seed of the stochastic rounding."""


@dataclass(frozen=True)
class Found:
    """What a step notes of a piece; NaN and infinite where a step overflows."""

    peak: Tensor | float
    """Largest |D| before it is rounded."""
    length: Tensor | float
    """||D|| as it is kept."""
    reach: Tensor | float
    """Largest |theta|."""


class Kernels:
    """Passes over pieces of the weights. This is the reference, for any device.

    All tensors of a call lie on one device.
    """

    name = "torch"
    fused = False
    """True where `perturb` and `compose` need no memory of their own, whatever the size."""
    fused_update = False
    """True where there is an `update`, a whole step in one pass, that needs none either."""

    def __init__(self, missing: str | None = None) -> None:
        self.missing = missing
        """Why those that are faster on this kind of device do not run; None where they do."""

    def perturb(self, parts: Iterable[Part], seed: int, scale: float) -> None:
        """Write round(w + scale * noise(seed)); w is round(base + drift), or the base without one.

        With -scale it is what undoes a perturbation, but for the few elements that this rounds
        away.
        """
        for part in parts:
            where = part.start, part.out.numel(), part.out.device
            shift = drawn(seed, part.name, *where, part.factors)
            shift *= scale
            shift += part.base if part.drift is None else composed(part.base, read(part.drift))
            part.out.copy_(shift)

    def compose(self, parts: Iterable[Part]) -> None:
        """Write round(base + drift): theta from theta_0 and D."""
        for part in parts:
            part.out.copy_(composed(part.base, read(part.drift)))

    def accumulate(
        self,
        total: Tensor,
        name: str,
        start: int,
        nets: Sequence[tuple[int, float]],
        factors: Factors | None = None,
    ) -> None:
        """Add c_i * noise(seed_i) to `total`, float32 (count,), one (seed_i, c_i) after the other.

        Source: arXiv:2509.24372, Algorithm 2 (update by seed replay).
        """
        for seed, net in nets:
            shift = drawn(seed, name, start, total.numel(), total.device, factors)
            shift *= net
            total += shift


def read(stored: Stored) -> Tensor:
    """Return D of a piece: float32 of shape (count,), the caller's own."""
    values = stored.values.to(torch.float32, copy=True)
    if stored.scales is not None:
        for block, scale in blocks(values, stored.scales):
            block *= scale
        decay_(values, stored.owed, "l1")
    elif stored.factor != 1:
        values *= stored.factor
    return values


def blocks(values: Tensor, scales: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield views of the whole blocks (n, BLOCK) and scales (n, 1), then of a shorter last one."""
    whole = values.numel() // BLOCK
    if whole:
        yield values[: whole * BLOCK].view(whole, BLOCK), scales[:whole].view(whole, 1)
    if values.numel() % BLOCK:
        yield values[whole * BLOCK :].view(1, -1), scales[whole:].view(1, 1)


def composed(base: Tensor, drift: Tensor) -> Tensor:
    """Return round(base + drift), a piece of theta, in the dtype of the base."""
    # Where the drift is 0, -0.0 + 0.0 would lose the sign of a base weight of -0.0. A
    # subtracted +0.0 keeps it, and (-drift) + 0.0 is +0.0 for zeros of either sign.
    return torch.sub(base.float(), drift.neg().add_(0.0)).to(base.dtype)


def decay_(drift: Tensor, pull: float, norm: str) -> None:
    """Shrink `drift`, float32 of any shape, towards the anchor, in place.

    L2: d <- (1 - pull) * d. L1: d <- sign(d) * max(|d| - pull, 0). `pull` is from `pull_of`.

    Source: arXiv:2605.30148, Algorithm 1, line 8, as a proximal step.
    """
    if pull == 0:
        return
    if norm == "l2":
        # Not a product with 1 - pull: its rounding error adds up over thousands of steps.
        drift -= drift * pull
        return
    shrunk = drift.abs()
    shrunk -= pull
    shrunk.clamp_(min=0)
    torch.copysign(shrunk, drift, out=drift)
