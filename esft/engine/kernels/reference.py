"""The passes over a piece of the weights in plain torch: every faster form has the same bits.

A product always comes before its sum: a fused multiply-add rounds once where these round twice.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.engine.codes import Grid
from esft.engine.noise import Factors, drawn, random_bits

BLOCK = 256
"""Elements that share a scale of an int8 drift; pieces start at multiples of it."""

CHANCE = "whole steps"
"""Purpose of the random bits by which noise is rounded to whole steps of a grid."""

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
    grid: Grid | None = None
    """Of its codes, which `out` and `base` are then, as they lie in memory; None where they are
    numbers."""

    @property
    def count(self) -> int:
        """Elements, which may be more than there are in `out`."""
        return self.out.numel() * (1 if self.grid is None else self.grid.per_byte)

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
    pairs: Sequence[tuple[int, float, float]] = ()
    """(seed, coefficient of +noise, coefficient of -noise) of each, for codes."""
    sigma: float | None = None
    """Noise scale, for codes."""


@dataclass(frozen=True)
class Found:
    """What a step notes of a piece; NaN and infinite where a step overflows."""

    peak: Tensor | float
    """Largest |D| before it is rounded."""
    length: Tensor | float
    """||D|| as it is kept."""
    reach: Tensor | float
    """Largest |theta|; 0 of codes, which are finite."""
    changed: Tensor | float = 0.0
    """Codes that are others than before."""


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
            if part.grid is not None:
                perturb_codes(part, seed, scale)
                continue
            where = part.start, part.out.numel(), part.out.device
            shift = drawn(seed, part.name, *where, part.factors)
            shift *= scale
            shift += part.base if part.drift is None else composed(part.base, read(part.drift))
            part.out.copy_(shift)

    def compose(self, parts: Iterable[Part]) -> None:
        """Write round(base + drift): theta from theta_0 and D."""
        for part in parts:
            if part.grid is not None:
                store_codes(part, codes_of(part))
                continue
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

    def accumulate_codes(
        self,
        total: Tensor,
        codes: Tensor,
        grid: Grid,
        name: str,
        start: int,
        pairs: Sequence[tuple[int, float, float]],
        sigma: float,
    ) -> None:
        """Add c_i * u_i to `total`, one member after the other, of the u_i that `codes` can take.

        Both are float32 (count,); `pairs` as in `Update`.

        Source: arXiv:2602.03120 (quantized evolution strategies), its gradient estimate.
        """
        for seed, plus, minus in pairs:
            steps = whole_steps(seed, name, start, total.numel(), sigma, total.device)
            for net, sign in ((plus, 1), (minus, -1)):
                if net != 0:
                    applied = steps * sign
                    applied *= allowed(codes + applied, grid)
                    applied *= net
                    total += applied

    def dequantize(
        self, out: Tensor, stored: Tensor, grid: Grid, scale: Tensor, minimum: Tensor | None
    ) -> None:
        """Write scale * code + minimum of whole rows, the product first.

        Args:
            out: float32 (rows, columns).
            stored: the codes as they lie in memory, (rows, columns or bytes of them).
            scale, minimum: (rows, groups), see `Quantized`.
        """
        codes = grid.unpack(stored.reshape(-1)).view(*scale.shape, -1)
        values = out.view(codes.shape)
        torch.mul(codes, scale.float()[..., None], out=values)
        if minimum is not None:
            values += minimum.float()[..., None]


def whole_steps(
    seed: int, name: str, start: int, count: int, sigma: float, device: torch.device | str
) -> Tensor:
    """Return u of some elements: sigma * noise(seed), rounded to whole numbers by chance.

    float32 (count,); up with the probability of its fraction, from a stream of its own, so that the
    mean of u is sigma * noise.

    Source: arXiv:2602.03120, stochastic rounding of the perturbation.
    """
    steps = drawn(seed, name, start, count, device)
    steps *= sigma
    below = steps.floor()
    steps -= below
    chance = random_bits(CHANCE, seed, name, start, count, device) >> 8
    chance &= 0xFFFFFF
    below += chance.float().mul_(2.0**-24) < steps
    return below


def allowed(codes: Tensor, grid: Grid) -> Tensor:
    """Return which codes the grid has."""
    return (codes >= grid.low) & (codes <= grid.high)


def codes_of(part: Part) -> Tensor:
    """Return W_0 + round(D) of a piece, within its grid: float32 (count,)."""
    codes = part.grid.unpack(part.base).float()
    return codes if part.drift is None else moved_codes(codes, read(part.drift), part.grid)


def moved_codes(base: Tensor, drift: Tensor, grid: Grid) -> Tensor:
    """Return base + round(drift), half to even, within the grid: float32 (count,)."""
    return (base + drift.round()).clamp_(grid.low, grid.high)


def perturb_codes(part: Part, seed: int, scale: float) -> None:
    """Write W + u, or W - u where `scale` is negative; W where that leaves the grid."""
    codes = codes_of(part)
    where = part.start, codes.numel(), abs(scale), codes.device
    steps = whole_steps(seed, part.name, *where).mul_(math.copysign(1, scale))
    steps *= allowed(codes + steps, part.grid)
    store_codes(part, codes.add_(steps))


def store_codes(part: Part, codes: Tensor) -> None:
    """Write codes, float32 (count,), to `out` as they lie in memory."""
    part.out.copy_(part.grid.pack(codes.to(torch.int8)))


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
