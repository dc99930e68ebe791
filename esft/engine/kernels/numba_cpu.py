"""The passes in numba, on the threads that torch has on a CPU."""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Event, Lock

import numpy as np
import torch
from torch import Tensor

from esft.engine.codes import Grid
from esft.engine.kernels import numba_codes as code_passes
from esft.engine.kernels import numba_passes as passes
from esft.engine.kernels.reference import CHANCE, Found, Kernels, Part, Stored, Update
from esft.engine.noise import Factors, hash_keys

u32, f32 = np.uint32, np.float32

CHUNK = 1 << 17
"""Elements that a thread takes at once, a multiple of `passes.BUFFER`: 0.1 ms of work or more."""

# How numba sees a dtype that it lacks; see `elements.number`.
_SEEN_AS = {torch.bfloat16: np.uint16, torch.float16: np.int16}
_FLOATING = torch.float32, torch.float16
_NORMS = {"l1": 1, "l2": 2}


Job = tuple[int, Callable[[int, int], None]]
"""How many elements there are, and what works on those from the first to before the last."""


class NumbaKernels(Kernels):
    """The passes on as many threads as torch uses; a thread's share changes no bit."""

    name = "numba"
    fused = True
    fused_update = True

    def perturb(self, parts: Iterable[Part], seed: int, scale: float) -> None:
        share_out([_writing(part, seed, scale) for part in parts])

    def compose(self, parts: Iterable[Part]) -> None:
        share_out([_writing(part, None, 0.0) for part in parts])

    def accumulate(
        self,
        total: Tensor,
        name: str,
        start: int,
        nets: Sequence[tuple[int, float]],
        factors: Factors | None = None,
    ) -> None:
        noises = _noises(name, nets)
        made = _made(factors, name, start, total.numel(), [seed for seed, _ in nets])

        def work(first: int, last: int) -> None:
            passes.accumulate(total.numpy(), first, last, start, *noises, made)

        share_out([(total.numel(), work)])

    def update(
        self,
        out: Tensor,
        base: Tensor,
        drift: Stored,
        next_factor: float,
        name: str,
        start: int,
        update: Update,
        factors: Factors | None = None,
    ) -> Found:
        """Make the step of a piece: D in place as it will be kept, theta to `out`.

        `next_factor` is what D is multiplied by when it is read next, where that is float16.
        """
        kinds = (drift.values if drift.values.dtype == kind else None for kind in _FLOATING)
        arrays = [*map(_array, (out, base, drift.values, drift.scales, *kinds))]
        chance = tuple(map(u32, hash_keys("rounding", update.rounding, name)))
        numbers = _floats(drift.factor, drift.owed, next_factor, 1 / next_factor)
        noises, pulled = _noises(name, update.nets), _floats(update.scale, update.pull)
        norm = _NORMS[update.norm] if update.pull else 0
        made = _made(factors, name, start, out.numel(), [seed for seed, _ in update.nets])
        found = {}

        def work(first: int, last: int) -> None:
            found[first] = passes.update(
                *(*arrays, *numbers, first, last, start, *noises, made, *pulled, norm, *chance)
            )

        share_out([(out.numel(), work)])
        peaks, squares, reaches = zip(*(found[first] for first in sorted(found)), strict=True)
        peak, reach = np.array([max(peaks), max(reaches)], np.uint32).view(f32).tolist()
        return Found(peak, math.sqrt(math.fsum(squares)), reach)

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
        arrays = total.numpy(), codes.numpy(), *_floats(grid.low, grid.high)
        noise = _keys("noise", name, pairs), _keys(CHANCE, name, pairs)
        nets = (np.array(_floats(*(pair[sign] for pair in pairs)), f32) for sign in (1, 2))
        rest = *noise[0], *noise[1], *nets, *_floats(sigma)

        def work(first: int, last: int) -> None:
            code_passes.accumulate_codes(*arrays, first, last, start, *rest)

        share_out([(total.numel(), work)])

    def dequantize(
        self, out: Tensor, stored: Tensor, grid: Grid, scale: Tensor, minimum: Tensor | None
    ) -> None:
        lows = scale.new_empty(0, 0) if minimum is None else minimum
        groups = (one.float().numpy() for one in (scale, lows))
        code_passes.dequantize(
            out.numpy(), stored.numpy(), f32(grid.low), grid.packed, *groups, 0, out.shape[0]
        )


def _keys(purpose: str, name: str, pairs: Sequence[tuple[int, float, float]]) -> list[np.ndarray]:
    keys = np.array([hash_keys(purpose, seed, name) for seed, *_ in pairs], np.uint32)
    return [np.ascontiguousarray(column) for column in keys.T]


def _writing_codes(part: Part, seed: int | None, scale: float) -> Job:
    """Return the job of writing a part that is codes; see `_writing`."""
    values, scales, *numbers = part.kept
    arrays = [*map(_array, (part.out, part.base, values, scales))]
    grid, keys = part.grid, (0, 0, 0, 0)
    if seed is not None:
        keys = (*hash_keys("noise", seed, part.name), *hash_keys(CHANCE, seed, part.name))
    numbers = *_floats(*numbers, grid.low, grid.high), grid.packed
    noise = part.start, *map(u32, keys), *_floats(abs(scale), math.copysign(1, scale))

    def work(first: int, last: int) -> None:
        code_passes.write_codes(*arrays, *numbers, first, last, *noise, seed is not None)

    return part.count, work


def _writing(part: Part, seed: int | None, scale: float) -> Job:
    """Return the job of writing a part, with noise of a seed where there is one."""
    if part.grid is not None:
        return _writing_codes(part, seed, scale)
    values, scales, *numbers = part.kept
    arrays = [*map(_array, (part.out, part.base, values, scales))]
    numbers = _floats(*numbers)
    keys, made = (0, 0), None
    if seed is not None:
        keys = hash_keys("noise", seed, part.name)
        made = _made(part.factors, part.name, part.start, part.out.numel(), [seed])
    noise = part.start, *map(u32, keys), *_floats(scale), seed is not None, made

    def work(first: int, last: int) -> None:
        passes.write(*arrays, *numbers, first, last, *noise)

    return part.out.numel(), work


def _array(tensor: Tensor | None) -> np.ndarray | None:
    if tensor is None or tensor.dtype not in _SEEN_AS:
        return None if tensor is None else tensor.numpy()
    return tensor.view(torch.int16).numpy().view(_SEEN_AS[tensor.dtype])


def _floats(*numbers: float) -> list[np.float32]:
    with np.errstate(over="ignore"):  # an update too large for float32 is infinite
        return [f32(number) for number in numbers]


def _noises(name: str, nets: Sequence[tuple[int, float]]) -> tuple[np.ndarray, ...]:
    keys = np.array([hash_keys("noise", seed, name) for seed, _ in nets], np.uint32).reshape(-1, 2)
    nets = np.array(_floats(*(net for _, net in nets)), f32)
    return np.ascontiguousarray(keys[:, 0]), np.ascontiguousarray(keys[:, 1]), nets


def _made(
    factors: Factors | None, name: str, start: int, count: int, seeds: Sequence[int]
) -> tuple | None:
    """Return what passes make noise of low rank from, and None where it is full: a, (seeds, rank,
    rows), b, (seeds, rank, columns), 1 / sqrt(rank), and where among these rows elements begin."""
    if factors is None or not count or not seeds:
        return None
    first, last = start // factors.columns, (start + count - 1) // factors.columns
    made = []
    for side, at, size in (("left", first, last - first + 1), ("right", 0, factors.columns)):
        vectors = np.zeros((len(seeds), factors.rank, size), f32)
        for seed, of_seed in zip(seeds, vectors, strict=True):
            for k, vector in enumerate(of_seed):
                keys = hash_keys(side, seed, f"{name}:{k}")
                key_1, key_2 = (np.array([key], np.uint32) for key in keys)
                passes.accumulate(vector, 0, size, at, key_1, key_2, np.ones(1, f32), None)
        made.append(vectors)
    return *made, *_floats(factors.unit), start - first * factors.columns


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="esft-kernel")


def share_out(jobs: Iterable[Job]) -> None:
    """Do jobs in chunks of their elements, on as many threads as torch uses.

    The chunks are the same for any number of threads. When this returns none is worked on any
    more, also when Ctrl-C makes it raise, at whatever moment.
    """
    chunks = [
        (work, first, min(first + CHUNK, count))
        for count, work in jobs
        for first in range(0, count, CHUNK)
    ]
    threads = max(1, min(torch.get_num_threads(), len(chunks)))
    over, working = Event(), [Lock() for _ in range(1, threads)]

    def share(thread: int) -> None:
        for work, first, last in chunks[thread::threads]:
            with working[thread - 1]:
                if over.is_set():
                    return
                work(first, last)

    try:
        others = [_pool().submit(share, thread) for thread in range(1, threads)]
        for work, first, last in chunks[::threads]:
            work(first, last)
        for other in others:
            other.result()
    finally:
        # Not by the futures: Ctrl-C may come before one is noted here.
        over.set()
        for lock in working:
            lock.acquire()
