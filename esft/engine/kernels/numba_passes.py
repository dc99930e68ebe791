"""The passes that numba compiles for the CPU at hand: all of a block while it is in the cache.

Weights and drift come as arrays whose dtype says what they are, see `elements.number`; a form is
compiled for each combination that is used. `fastmath` is off, so that no product is fused with
its sum, and integers round 16-bit numbers, in their bits.
"""

from collections.abc import Callable
from contextlib import suppress

import numba
import numpy as np
from numba.core.caching import FunctionCache

from esft.engine.kernels.elements import (
    chanced,
    coded,
    composed,
    counted,
    hashed,
    magnitude,
    normal,
    number,
    of_bits,
    rounded,
    shrunk,
)
from esft.engine.kernels.reference import BLOCK, LARGEST_SCALE, SMALLEST_SCALE, TOP_CODE

u32, f32 = np.uint32, np.float32

BUFFER = 4 * BLOCK
"""Elements of a block of `update`."""
_SMALLEST, _LARGEST, _TOP = f32(SMALLEST_SCALE), f32(LARGEST_SCALE), f32(TOP_CODE)
_UNIT = f32(1 / TOP_CODE)


class _Cache(FunctionCache):
    """What is compiled, kept for other processes; done without where it cannot be written."""

    def save_overload(self, *args: object) -> None:
        with suppress(OSError):
            super().save_overload(*args)


def _compiled(function: Callable) -> Callable:
    made = numba.njit(nogil=True, error_model="numpy")(function)
    made._cache = _Cache(function)
    return made


@_compiled
def write(
    theta, theta_0, kept, scales, factor, owed, first, last, start, k1, k2, scale, add, made
):  # fmt: skip
    """Write round(theta_0 + D) to `theta`, and round that plus scale * noise where `add`.

    `kept` is None where there is no D, `scales` where D is not int8, and `made` where noise is
    full: what it is made from else, see `numba_cpu._made`.
    """
    noises = np.empty(BLOCK, f32)
    for at in range(first, last, BLOCK):
        # Views with indices from 0: of others numba asks each whether it counts from the end.
        new, base = theta[at : min(at + BLOCK, last)], theta_0[at : min(at + BLOCK, last)]
        x = counted(k1, start, at)
        if add and made is not None:
            _multiply(noises[: new.size], at, made, 0)
        # The loops stand here, and stand twice: in a function of their own they are not vectorized.
        if kept is None:
            if made is None:
                for j in range(new.size):
                    noise = normal(hashed(counted(x, 0, j), k2)) * scale
                    new[j] = rounded(number(base[j]) + noise, theta)
            else:
                for j in range(new.size):
                    new[j] = rounded(number(base[j]) + noises[j] * scale, theta)
            continue
        old, unit = kept[at : min(at + BLOCK, last)], factor
        if scales is not None:
            unit = scales[at // BLOCK]
        for j in range(new.size):
            drift = number(old[j]) * unit
            if scales is not None:
                drift = shrunk(drift, owed)
            new[j] = rounded(composed(number(base[j]), drift), theta)
        if add:
            if made is None:
                for j in range(new.size):
                    noise = normal(hashed(counted(x, 0, j), k2)) * scale
                    new[j] = rounded(number(new[j]) + noise, theta)
            else:
                for j in range(new.size):
                    new[j] = rounded(number(new[j]) + noises[j] * scale, theta)


@_compiled
def accumulate(total, first, last, start, k1, k2, nets, made):
    """Add the noises to elements of `total`, one after the other."""
    for at in range(first, last, BUFFER):
        _add_noises(total[at : min(at + BUFFER, last)], start, at, k1, k2, nets, made)


@_compiled
def update(
    theta, theta_0, kept, scales, floats, halves, factor, owed, next_factor, next_inverse,
    first, last, start, k1, k2, nets, made, scale, pull, norm, r1, r2,
):  # fmt: skip
    """Make one step, see `NumbaKernels.update`; return bits of peak and reach, and ||D||^2.

    `floats` or `halves` is `kept` where D is float32 or float16, and None where it is not, as
    `scales`: what None is compared with goes before types are looked at.
    """
    values, total = np.empty(BUFFER, f32), np.empty(BUFFER, f32)
    squares = np.zeros(BUFFER, np.float64)
    peak, reach = u32(0), u32(0)
    for at in range(first, last, BUFFER):
        count = min(BUFFER, last - at)
        old, base, new = kept[at : at + count], theta_0[at : at + count], theta[at : at + count]
        for block in range(0, count, BLOCK):
            unit = factor
            if scales is not None:
                unit = scales[(at + block) // BLOCK]
            for j in range(block, min(block + BLOCK, count)):
                values[j] = number(old[j]) * unit
                if scales is not None:
                    values[j] = shrunk(values[j], owed)
        if nets.size:
            for j in range(count):
                total[j] = f32(0)
            _add_noises(total[:count], start, at, k1, k2, nets, made)
            for j in range(count):
                values[j] = values[j] + total[j] * scale
        if norm == 2:
            for j in range(count):
                values[j] = values[j] - values[j] * pull
        elif norm == 1:
            for j in range(count):
                values[j] = shrunk(values[j], pull)
        peak = max(peak, _largest(values[:count]))
        if floats is not None:
            for j in range(count):
                floats[at + j] = values[j]
        if halves is not None:
            x = counted(r1, start, at)
            for j in range(count):
                value = chanced(values[j] * next_inverse, hashed(counted(x, 0, j), r2))
                old[j] = rounded(value, halves)
                values[j] = number(old[j]) * next_factor
        if scales is not None:
            _keep_codes(old, scales[at // BLOCK :], counted(r1, start, at), r2, values)
        for j in range(count):
            squares[j] += np.float64(values[j]) * np.float64(values[j])
            new[j] = rounded(composed(number(base[j]), values[j]), theta)
            total[j] = number(new[j])
        reach = max(reach, _largest(total[:count]))
    return peak, squares.sum(), reach


@_compiled
def _add_noises(total, start, at, k1, k2, nets, made):
    if made is not None:
        noises = np.empty(total.size, f32)
    for i in range(nets.size):
        x, key, net = counted(k1[i], start, at), k2[i], nets[i]
        if made is None:
            for j in range(total.size):
                total[j] += normal(hashed(counted(x, 0, j), key)) * net
        else:
            _multiply(noises, at, made, i)
            for j in range(total.size):
                total[j] += noises[j] * net


@_compiled
def _multiply(noises, at, made, i):
    """Write elements from `at` on of the i-th noise of low rank, row by row."""
    lefts, rights, unit, place = made
    left, right = lefts[i], rights[i]
    columns = right.shape[1]
    row, column, done = (place + at) // columns, (place + at) % columns, 0
    while done < noises.size:
        count = min(noises.size - done, columns - column)
        part = noises[done : done + count]
        for k in range(left.shape[0]):
            a, b = left[k, row], right[k, column : column + count]
            if k == 0:
                for j in range(count):
                    part[j] = a * b[j]
            else:
                for j in range(count):
                    part[j] += a * b[j]
        for j in range(count):
            part[j] = part[j] * unit
        row, column, done = row + 1, 0, done + count


@_compiled
def _largest(values):
    """Return the bits of the largest magnitude; those of NaN are above all others."""
    largest = u32(0)
    for j in range(values.size):
        largest = max(largest, magnitude(values[j]))
    return largest


@_compiled
def _keep_codes(codes, scales, x, key, values):
    """Keep `values` as int8 and replace them by what is kept; see `kept.KeptDrift.write`."""
    for block in range(0, codes.size, BLOCK):
        last = min(block + BLOCK, codes.size)
        scale = of_bits(_largest(values[block:last]))
        if scale > f32(0):
            scale = max(min(scale * _UNIT, _LARGEST), _SMALLEST)
        scales[block // BLOCK] = scale
        divisor = max(scale, _SMALLEST)
        for j in range(block, last):
            share = max(min(values[j] / divisor, _TOP), -_TOP) * f32(1 << 23)
            codes[j] = coded(np.rint(share), hashed(counted(x, 0, j), key))
            values[j] = number(codes[j]) * scale
