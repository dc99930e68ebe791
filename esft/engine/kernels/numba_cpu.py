"""The passes in numba, compiled for the CPU at hand: all of a piece in one go, block by block.

A block is worked on as float32 in a buffer that stays in the first cache. `fastmath` is off, so
that no product is fused with its sum, and integers round 16-bit numbers, in their bits.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import numba
import numpy as np
import torch
from torch import Tensor

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
from esft.engine.kernels.reference import BLOCK, Found, Kernels, Stored, Update
from esft.engine.noise import hash_keys

u32, f32 = np.uint32, np.float32

# Elements of a buffer, a multiple of BLOCK.
_BUFFER = 4 * BLOCK
# Elements that a thread takes at once, a multiple of _BUFFER: 0.1 ms, of which a tenth is Python's.
_CHUNK = 1 << 18

_NONE, _FLOAT32, _FLOAT16, _BFLOAT16, _INT8 = range(5)
_CODES = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3, torch.int8: 4}
_NORMS = {"l1": 1, "l2": 2}

_SMALLEST_SCALE, _LARGEST_SCALE = f32(2.0**-120), f32(2.0**121)

_compiled = numba.njit(nogil=True, cache=True, error_model="numpy")


class NumbaKernels(Kernels):
    """The passes on as many threads as torch uses; a thread's share changes no bit."""

    name = "numba"
    fused = True
    fused_update = True

    def perturb(
        self,
        out: Tensor,
        base: Tensor,
        drift: Stored | None,
        name: str,
        start: int,
        seed: int,
        scale: float,
    ) -> None:
        keys = hash_keys("noise", seed, name)
        self._write(out, base, drift, start, keys, scale)

    def compose(self, out: Tensor, base: Tensor, drift: Stored) -> None:
        self._write(out, base, drift, 0, None, 0.0)

    def accumulate(
        self, total: Tensor, name: str, start: int, nets: Sequence[tuple[int, float]]
    ) -> None:
        noises = _noises(name, nets)

        def work(first: int, last: int) -> None:
            _accumulate(total.numpy(), first, last, start, *noises)

        _shared(total.numel(), work)

    def update(
        self,
        out: Tensor,
        base: Tensor,
        drift: Stored,
        next_factor: float,
        name: str,
        start: int,
        update: Update,
    ) -> Found:
        """Make the step of a piece: D in place as it will be kept, theta to `out`.

        `next_factor` is what D is multiplied by when it is read next, where that is float16.
        """
        theta, theta_0, kept, scales = map(_bytes, (out, base, drift.values, drift.scales))
        noises = _noises(name, update.nets)
        chance = [u32(key) for key in hash_keys("rounding", update.rounding, name)]
        codes = _CODES[out.dtype], _CODES[drift.values.dtype]
        norm = _NORMS[update.norm] if update.pull else 0
        numbers = _floats(drift.factor, 1 / next_factor, next_factor, drift.owed)
        found = {}

        def work(first: int, last: int) -> None:
            found[first] = _update(
                *(theta, theta_0, kept, scales.view(f32), first, last, *codes, *numbers),
                *(start, *noises, *_floats(update.scale, update.pull), norm, *chance),
            )

        _shared(out.numel(), work)
        peaks, squares, reaches = zip(*(found[first] for first in sorted(found)), strict=True)
        peak, reach = np.array([max(peaks), max(reaches)], np.uint32).view(f32).tolist()
        return Found(peak, math.sqrt(math.fsum(squares)), reach)

    def _write(
        self,
        out: Tensor,
        base: Tensor,
        drift: Stored | None,
        start: int,
        keys: tuple[int, int] | None,
        scale: float,
    ) -> None:
        drift = Stored(base[:0]) if drift is None else drift
        theta, theta_0, kept, scales = map(_bytes, (out, base, drift.values, drift.scales))
        has_drift = drift.values.numel() > 0
        codes = _CODES[out.dtype], _CODES[drift.values.dtype] if has_drift else _NONE
        numbers = _floats(drift.factor, drift.owed)
        k1, k2 = map(u32, keys or (0, 0))

        def work(first: int, last: int) -> None:
            _write(
                *(theta, theta_0, kept, scales.view(f32), first, last, *codes, *numbers),
                *(start, k1, k2, *_floats(scale), keys is not None),
            )

        _shared(out.numel(), work)


def _bytes(tensor: Tensor | None) -> np.ndarray:
    return np.empty(0, np.uint8) if tensor is None else tensor.view(torch.uint8).numpy()


def _floats(*numbers: float) -> list[np.float32]:
    with np.errstate(over="ignore"):  # an update too large for float32 is infinite
        return [f32(number) for number in numbers]


def _noises(name: str, nets: Sequence[tuple[int, float]]) -> tuple[np.ndarray, ...]:
    keys = np.array([hash_keys("noise", seed, name) for seed, _ in nets], np.uint32).reshape(-1, 2)
    nets = np.array(_floats(*(net for _, net in nets)), f32)
    return np.ascontiguousarray(keys[:, 0]), np.ascontiguousarray(keys[:, 1]), nets


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="esft-kernel")


def _shared(count: int, work: Callable[[int, int], None]) -> None:
    """Call `work(first, last)` for chunks of `count` elements, on as many threads as torch uses.

    The chunks are the same for any number of threads, and all are done when this returns,
    also when Ctrl-C makes it raise.
    """
    firsts = range(0, count, _CHUNK)
    threads = min(torch.get_num_threads(), len(firsts))

    def share(thread: int) -> None:
        for first in firsts[thread::threads]:
            work(first, min(first + _CHUNK, count))

    others = [_pool().submit(share, thread) for thread in range(1, threads)]
    try:
        if threads:
            share(0)
    finally:
        wait(others)
    for other in others:
        other.result()


@_compiled
def _write(
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
    values, extra = np.empty(_BUFFER, f32), np.empty(_BUFFER, f32)
    for at in range(first, last, _BUFFER):
        count = min(_BUFFER, last - at)
        _load(weight, theta_0, at, count, values)
        if drift != _NONE:
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


@_compiled
def _accumulate(total, first, last, start, k1, k2, nets):
    """Add the noises to elements of `total`, one after the other."""
    for at in range(first, last, _BUFFER):
        _add_noises(total[at : min(at + _BUFFER, last)], start, at, k1, k2, nets)


@_compiled
def _update(
    theta, theta_0, kept, scales, first, last, weight, drift, factor, next_inverse, next_factor,
    owed, start, k1, k2, nets, scale, pull, norm, r1, r2,
):  # fmt: skip
    """Make one step: see `NumbaKernels.update`. Returns bits of peak and reach, and ||D||^2."""
    values, total = np.empty(_BUFFER, f32), np.empty(_BUFFER, f32)
    squares = np.zeros(_BUFFER, np.float64)
    peak, reach = u32(0), u32(0)
    for at in range(first, last, _BUFFER):
        count = min(_BUFFER, last - at)
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


@_compiled
def _add_noises(total, start, at, k1, k2, nets):
    for i in range(nets.size):
        x, key, net = counted(k1[i], start, at), k2[i], nets[i]
        for j in range(total.size):
            total[j] += normal(hashed(counted(x, 0, j), key)) * net


@_compiled
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


@_compiled
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


@_compiled
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


@_compiled
def _decay(norm, pull, count, values):
    """Shrink `values`; see `reference.decay_`."""
    if norm == 2:
        for j in range(count):
            values[j] = values[j] - values[j] * pull
    elif norm == 1:
        for j in range(count):
            values[j] = signed(max(abs(values[j]) - pull, f32(0)), values[j])


@_compiled
def _largest(values):
    """Return the bits of the largest magnitude; those of NaN are above all others."""
    largest = u32(0)
    for j in range(values.size):
        largest = max(largest, magnitude(values[j]))
    return largest


@_compiled
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
