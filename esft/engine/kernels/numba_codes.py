"""The passes over codes that numba compiles, see `numba_passes`; all numbers are float32, in which
codes are exact."""

import numpy as np

from esft.engine.kernels.elements import (
    counted,
    hashed,
    lower,
    normal,
    number,
    paired,
    shrunk,
    to_code,
    unit,
    upper,
)
from esft.engine.kernels.numba_passes import _compiled
from esft.engine.kernels.reference import BLOCK

f32 = np.float32


@_compiled
def write_codes(
    new, base, kept, scales, factor, owed, low, high, packed, first, last, start, k1, k2, r1, r2,
    sigma, sign, add,
):  # fmt: skip
    """Write W_0 + round(D) to `new`, and that plus sign * u where `add`, as `perturb_codes` does.

    `first` and `last` are elements; `kept` is None where there is no D, `scales` where it is not
    int8.
    """
    codes, steps = np.empty(BLOCK, f32), np.empty(BLOCK, f32)
    for at in range(first, last, BLOCK):
        count = min(BLOCK, last - at)
        _read(codes[:count], base, at, low, packed)
        if kept is not None:
            old, share = kept[at : at + count], factor
            if scales is not None:
                share = scales[at // BLOCK]
            for j in range(count):
                drift = number(old[j]) * share
                if scales is not None:
                    drift = shrunk(drift, owed)
                codes[j] = min(max(codes[j] + np.rint(drift), low), high)
        if add:
            _draw(steps[:count], start, at, k1, k2, r1, r2, sigma)
            for j in range(count):
                moved = codes[j] + steps[j] * sign
                codes[j] = moved if (moved >= low) & (moved <= high) else codes[j]
        if packed:
            half = new[at // 2 : (at + count) // 2]
            for j in range(half.size):
                half[j] = paired(codes[2 * j] - low, codes[2 * j + 1] - low)
        else:
            for j in range(count):
                new[at + j] = to_code(codes[j], new)


@_compiled
def accumulate_codes(
    total, codes, low, high, first, last, start, k1, k2, r1, r2, plus, minus, sigma
):
    """Add c_i * u_i to elements of `total`, one member after the other; see `Kernels`."""
    steps = np.empty(BLOCK, f32)
    for at in range(first, last, BLOCK):
        sums = total[at : min(at + BLOCK, last)]
        here = codes[at : at + sums.size]
        for i in range(k1.size):
            _draw(steps[: sums.size], start, at, k1[i], k2[i], r1[i], r2[i], sigma)
            if plus[i] != f32(0):
                _add(sums, here, steps, low, high, plus[i], f32(1))
            if minus[i] != f32(0):
                _add(sums, here, steps, low, high, minus[i], f32(-1))


@_compiled
def dequantize(out, stored, low, packed, scale, minimum, first, last):
    """Write rows `first` to `last` of a matrix; `minimum` has no rows where it is 0."""
    columns, groups = out.shape[1], scale.shape[1]
    size = columns // groups
    for row in range(first, last):
        for group in range(groups):
            at, step = group * size, scale[row, group]
            values = out[row, at : at + size]
            _read(values, stored[row], at, low, packed)
            if minimum.size:
                least = minimum[row, group]
                for j in range(size):
                    values[j] = values[j] * step + least
            else:
                for j in range(size):
                    values[j] = values[j] * step


@_compiled
def _read(codes, stored, at, low, packed):
    """Write the codes from `at` on; where they are packed, and `at` or the end is odd, halves."""
    if not packed:
        here = stored[at : at + codes.size]
        for j in range(codes.size):
            codes[j] = number(here[j])
        return
    if at % 2:
        codes[0] = upper(stored[at // 2]) + low
        codes, at = codes[1:], at + 1
    half = stored[at // 2 : (at + codes.size) // 2]
    for j in range(half.size):
        codes[2 * j] = lower(half[j]) + low
        codes[2 * j + 1] = upper(half[j]) + low
    if codes.size % 2:
        codes[codes.size - 1] = lower(stored[(at + codes.size) // 2]) + low


@_compiled
def _draw(steps, start, at, k1, k2, r1, r2, sigma):
    """Write u of some elements; see `reference.whole_steps`."""
    x, y = counted(k1, start, at), counted(r1, start, at)
    for j in range(steps.size):
        step = normal(hashed(counted(x, 0, j), k2)) * sigma
        below = np.floor(step)
        up = unit(hashed(counted(y, 0, j), r2)) < step - below
        steps[j] = below + (f32(1) if up else f32(0))


@_compiled
def _add(sums, codes, steps, low, high, net, sign):
    for j in range(sums.size):
        applied = steps[j] * sign
        moved = codes[j] + applied
        allowed = (moved >= low) & (moved <= high)
        sums[j] += (applied if allowed else f32(0)) * net
