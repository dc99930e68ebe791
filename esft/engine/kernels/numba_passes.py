"""The passes that numba compiles for the CPU at hand: all of a piece in one go, block by block.

A block is worked on as float32 in a buffer that stays in the first cache. `fastmath` is off, so
that no product is fused with its sum, and integers round 16-bit numbers, in their bits. Weights
and drift come as bytes, so that one compiled form serves all dtypes.
"""

import numba
import numpy as np

from esft.engine.kernels.elements import (
    bfloat16,
    chanced,
    coded,
    composed,
    counted,
    float16,
    hashed,
    magnitude,
    normal,
    of_bfloat16,
    of_bits,
    of_float16,
    signed,
)
from esft.engine.kernels.reference import BLOCK

u32, f32 = np.uint32, np.float32

# Elements of a buffer.
BUFFER = 4 * BLOCK

NONE, _FLOAT32, _FLOAT16, _BFLOAT16, _INT8 = range(5)
_SMALLEST_SCALE, _LARGEST_SCALE = f32(2.0**-120), f32(2.0**121)

compiled = numba.njit(nogil=True, cache=True, error_model="numpy")


@compiled
def write(
    theta,
    theta_0,
    kept,
    scales,
    first,
    last,
    weight,
    drift,
    factor,
    owed,
    start,
    k1,
    k2,
    scale,
    add,
):
    """Write round(theta_0 + D) to `theta`, and round that plus scale * noise where `add`."""
    values, extra = np.empty(BUFFER, f32), np.empty(BUFFER, f32)
    for at in range(first, last, BUFFER):
        count = min(BUFFER, last - at)
        _load(weight, theta_0, at, count, values)
        if drift != NONE:
            _load_drift(drift, kept, scales, at, count, factor, owed, extra)
            for j in range(count):
                values[j] = composed(values[j], extra[j])
            if add and weight == _BFLOAT16:
                for j in range(count):
                    values[j] = of_bfloat16(bfloat16(values[j]))
            if add and weight == _FLOAT16:
                for j in range(count):
                    values[j] = of_float16(float16(values[j]))
        if add:
            x = counted(k1, start, at)
            for j in range(count):
                values[j] = values[j] + normal(hashed(counted(x, 0, j), k2)) * scale
        _store(weight, theta, at, count, values)


@compiled
def accumulate(total, first, last, start, k1, k2, nets):
    """Add the noises to elements of `total`, one after the other."""
    for at in range(first, last, BUFFER):
        _add_noises(total[at : min(at + BUFFER, last)], start, at, k1, k2, nets)


@compiled
def update(
    theta, theta_0, kept, scales, first, last, weight, drift, factor, next_inverse, next_factor,
    owed, start, k1, k2, nets, scale, pull, norm, r1, r2,
):  # fmt: skip
    """Make one step, see `NumbaKernels.update`; return bits of peak and reach, and ||D||^2."""
    values, total = np.empty(BUFFER, f32), np.empty(BUFFER, f32)
    squares = np.zeros(BUFFER, np.float64)
    peak, reach = u32(0), u32(0)
    for at in range(first, last, BUFFER):
        count = min(BUFFER, last - at)
        _load_drift(drift, kept, scales, at, count, factor, owed, values)
        if nets.size:
            for j in range(count):
                total[j] = f32(0)
            _add_noises(total[:count], start, at, k1, k2, nets)
            for j in range(count):
                values[j] = values[j] + total[j] * scale
        _decay(norm, pull, count, values)
        peak = max(peak, _largest(values[:count]))
        _keep(drift, kept, scales, at, count, next_inverse, next_factor, start, r1, r2, values)
        _load(weight, theta_0, at, count, total)
        for j in range(count):
            squares[j] += np.float64(values[j]) * np.float64(values[j])
            total[j] = composed(total[j], values[j])
        _store(weight, theta, at, count, total)
        _load(weight, theta, at, count, total)
        reach = max(reach, _largest(total[:count]))
    return peak, squares.sum(), reach


@compiled
def _add_noises(total, start, at, k1, k2, nets):
    for i in range(nets.size):
        x, key, net = counted(k1[i], start, at), k2[i], nets[i]
        for j in range(total.size):
            total[j] += normal(hashed(counted(x, 0, j), key)) * net


@compiled
def _load(code, source, at, count, out):
    """Read numbers of a dtype, one of `_CODES`, as float32; `source` is of bytes."""
    if code == _FLOAT32:
        floats = source.view(f32)[at : at + count]
        for j in range(count):  # assigning the slice is another 7 s to compile
            out[j] = floats[j]
        return
    halves = source.view(np.uint16)[at : at + count]
    if code == _BFLOAT16:
        for j in range(count):
            out[j] = of_bfloat16(halves[j])
    else:
        for j in range(count):
            out[j] = of_float16(halves[j])


@compiled
def _store(code, out, at, count, values):
    """Round float32 to a dtype, to the nearest, half to even."""
    if code == _FLOAT32:
        floats = out.view(f32)[at : at + count]
        for j in range(count):
            floats[j] = values[j]
        return
    halves = out.view(np.uint16)[at : at + count]
    if code == _BFLOAT16:
        for j in range(count):
            halves[j] = bfloat16(values[j])
    else:
        for j in range(count):
            halves[j] = float16(values[j])


@compiled
def _load_drift(code, kept, scales, at, count, factor, owed, out):
    """Read D; see `reference.read`."""
    if code != _INT8:
        _load(code, kept, at, count, out)
        if factor != f32(1):
            for j in range(count):
                out[j] = out[j] * factor
        return
    codes = kept.view(np.int8)[at : at + count]
    for block in range(0, count, BLOCK):
        scale = scales[(at + block) // BLOCK]
        for j in range(block, min(block + BLOCK, count)):
            out[j] = f32(codes[j]) * scale
    if owed > f32(0):
        _decay(1, owed, count, out)


@compiled
def _decay(norm, pull, count, values):
    """Shrink `values`; see `reference.decay_`."""
    if norm == 2:
        for j in range(count):
            values[j] = values[j] - values[j] * pull
    elif norm == 1:
        for j in range(count):
            values[j] = signed(max(abs(values[j]) - pull, f32(0)), values[j])


@compiled
def _largest(values):
    """Return the bits of the largest magnitude; those of NaN are above all others."""
    largest = u32(0)
    for j in range(values.size):
        largest = max(largest, magnitude(values[j]))
    return largest


@compiled
def _keep(code, kept, scales, at, count, factor, inverse, start, r1, r2, values):
    """Keep `values` and replace them by what is kept; see `kept.KeptDrift.write`."""
    x = counted(r1, start, at)
    if code == _FLOAT32:
        _store(code, kept, at, count, values)
    elif code == _FLOAT16:
        for j in range(count):
            values[j] = chanced(values[j] * factor, hashed(counted(x, 0, j), r2))
        _store(code, kept, at, count, values)
        _load(code, kept, at, count, values)
        for j in range(count):
            values[j] = values[j] * inverse
    else:
        codes = kept.view(np.int8)[at : at + count]
        for block in range(0, count, BLOCK):
            last = min(block + BLOCK, count)
            scale = of_bits(_largest(values[block:last]))
            if scale > f32(0):
                scale = max(min(scale * f32(1 / 127), _LARGEST_SCALE), _SMALLEST_SCALE)
            scales[(at + block) // BLOCK] = scale
            divisor = max(scale, _SMALLEST_SCALE)
            for j in range(block, last):
                share = max(min(values[j] / divisor, f32(127)), f32(-127)) * f32(1 << 23)
                codes[j] = coded(np.rint(share), hashed(counted(x, 0, j), r2))
                values[j] = f32(codes[j]) * scale
