"""The passes over codes in Triton, see `triton_cuda`; all numbers are float32, in which codes are
exact."""

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from esft.engine.codes import Grid
from esft.engine.kernels.reference import CHANCE, Part
from esft.engine.kernels.triton_cuda import drift_of, hashed_bits, launch, noise_of
from esft.engine.noise import STRIDE, hash_keys

_WHOLE = tl.constexpr(12_582_912.0)
"""1.5 * 2^23: added and taken off, it rounds what is below 2^22 to whole numbers, half to even."""


def write_codes(part: Part, seed: int | None, scale: float) -> None:
    """Write W_0 + round(D), and that plus or minus u where there is a seed; see `Kernels`."""
    grid, keys = part.grid, (0, 0, 0, 0)
    if seed is not None:
        keys = _keys(part.name, part.start, [seed])[0].tolist()
    numbers = float(grid.low), float(grid.high), abs(scale), 1.0 if scale > 0 else -1.0
    flags = {"PACKED": grid.packed, "NOISE": seed is not None}
    launch(_write, part.out, part.base, *part.kept, *numbers, *keys, **flags)


def accumulate_codes(
    total: Tensor,
    codes: Tensor,
    grid: Grid,
    name: str,
    start: int,
    pairs: Sequence[tuple[int, float, float]],
    sigma: float,
) -> None:
    """Add c_i * u_i to `total`, one member after the other; see `Kernels`."""
    nets = torch.tensor([pair[1:] for pair in pairs], dtype=torch.float32).view(-1, 2)
    keys = _keys(name, start, [seed for seed, *_ in pairs])
    members = torch.cat([keys, nets.view(torch.int32)], 1)  # (noises, 6)
    if total.is_cuda:
        members = members.pin_memory().to(total.device, non_blocking=True)
    bounds = float(grid.low), float(grid.high)
    launch(_accumulate, total, codes, members, len(pairs), *bounds, sigma)


def _keys(name: str, start: int, seeds: Sequence[int]) -> Tensor:
    """Return counters of element `start` and second keys of noise and chance: (seeds, 4) int32."""
    bits = [
        [
            number
            for purpose in ("noise", CHANCE)
            for key_1, key_2 in [hash_keys(purpose, seed, name)]
            for number in ((key_1 + start * STRIDE) & 0xFFFFFFFF, key_2)
        ]
        for seed in seeds
    ]
    return torch.from_numpy(np.array(bits, np.uint32).reshape(-1, 4).view(np.int32))


@triton.jit(do_not_specialize=["counter", "key", "counter_2", "key_2"])
def _write(
    out, count, base, drift, scales, factor, owed, low, high, sigma, sign,
    counter, key, counter_2, key_2,
    PACKED: tl.constexpr, NOISE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Write `count` bytes, of two codes each where PACKED."""
    first = tl.program_id(0).to(tl.int64) * SIZE
    at = tl.arange(0, SIZE)
    mask = at < count - first
    stored = tl.load(base + first + at, mask=mask, other=0)
    if PACKED:
        bits = stored.to(tl.int32)
        lower = (bits & 15).to(tl.float32) + low
        upper = ((bits >> 4) & 15).to(tl.float32) + low
        where = drift, scales, factor, owed, low, high, sigma, sign
        keys = counter, key, counter_2, key_2
        lower = _moved(lower, 2 * first, 2 * at, mask, where, keys, NOISE)
        upper = _moved(upper, 2 * first, 2 * at + 1, mask, where, keys, NOISE)
        codes = (lower - low).to(tl.int32) | ((upper - low).to(tl.int32) << 4)
    else:
        where = drift, scales, factor, owed, low, high, sigma, sign
        keys = counter, key, counter_2, key_2
        codes = _moved(stored.to(tl.float32), first, at, mask, where, keys, NOISE).to(tl.int32)
    tl.store(out + first + at, codes.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _moved(codes, first, at, mask, where, keys, NOISE: tl.constexpr):
    """Return codes with round(D), and u where NOISE, those that leave the grid as they were."""
    drift, scales, factor, owed, low, high, sigma, sign = where
    if drift is not None:
        moved = drift_of(drift, scales, factor, owed, first, at, mask)
        # Beyond the grid by far it is no whole number any more, and is at the bound all the same.
        moved = tl.minimum(tl.maximum(moved, -1024.0), 1024.0)
        moved = codes + ((moved + _WHOLE) - _WHOLE)
        codes = tl.minimum(tl.maximum(moved, low), high)
    if NOISE:
        counter, key, counter_2, key_2 = keys
        moved = codes + _steps(counter, key, counter_2, key_2, first, at, sigma) * sign
        codes = tl.where((moved >= low) & (moved <= high), moved, codes)
    return codes


@triton.jit(do_not_specialize=["members"])
def _accumulate(total, count, codes, keys, members, low, high, sigma, SIZE: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * SIZE
    at = tl.arange(0, SIZE)
    mask = at < count - first
    sums = tl.load(total + first + at, mask=mask, other=0)
    here = tl.load(codes + first + at, mask=mask, other=0)
    for _ in range(members):
        counter, key = tl.load(keys), tl.load(keys + 1)
        counter_2, key_2 = tl.load(keys + 2), tl.load(keys + 3)
        steps = _steps(counter, key, counter_2, key_2, first, at, sigma)
        plus = tl.load(keys + 4).to(tl.float32, bitcast=True)
        minus = tl.load(keys + 5).to(tl.float32, bitcast=True)
        if plus != 0:
            sums += _allowed(here, steps, low, high) * plus
        if minus != 0:
            sums += _allowed(here, 0.0 - steps, low, high) * minus
        keys += 6
    tl.store(total + first + at, sums, mask=mask)


@triton.jit
def _allowed(codes, steps, low, high):
    moved = codes + steps
    return tl.where((moved >= low) & (moved <= high), steps, 0.0)


@triton.jit
def _steps(counter, key, counter_2, key_2, first, at, sigma):
    """Return u of some elements; see `reference.whole_steps`."""
    steps = noise_of(counter, key, first, at) * sigma
    # Not tl.floor, which takes the smallest numbers for 0 on the device; what is too large for 32
    # bits is beyond every grid all the same.
    below = steps.to(tl.int32).to(tl.float32)
    below = tl.where(below > steps, below - 1.0, below)
    chance = (hashed_bits(counter_2, key_2, first, at) >> 8).to(tl.float32) * 5.9604644775390625e-08
    return below + tl.where(chance < steps - below, 1.0, 0.0)
