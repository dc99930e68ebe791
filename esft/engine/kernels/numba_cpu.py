"""The passes in numba, on the threads that torch has on a CPU."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import numpy as np
import torch
from torch import Tensor

from esft.engine.kernels import numba_passes as passes
from esft.engine.kernels.reference import Found, Kernels, Stored, Update
from esft.engine.noise import hash_keys

u32, f32 = np.uint32, np.float32

# Elements that a thread takes at once, a multiple of BUFFER: 0.1 ms, of which a tenth is Python's.
_CHUNK = 1 << 18

_CODES = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3, torch.int8: 4}
_NORMS = {"l1": 1, "l2": 2}


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
            passes.accumulate(total.numpy(), first, last, start, *noises)

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
            found[first] = passes.update(
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
        codes = _CODES[out.dtype], _CODES[drift.values.dtype] if has_drift else passes.NONE
        numbers = _floats(drift.factor, drift.owed)
        k1, k2 = map(u32, keys or (0, 0))

        def work(first: int, last: int) -> None:
            passes.write(
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
