"""How many sequences go through a model at once: as many as fit, halved when memory runs out."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from esft.errors import ModelError
from esft.models.calling import out_of_memory
from esft.models.memory import free_memory, memory_taken

Item = TypeVar("Item")
Result = TypeVar("Result")

START = 64
"""Sequences at a time until memory says otherwise."""
MOST = {"cpu": 64, "mps": 256, "cuda": 1024}
"""Sequences beyond which more bring nothing. Measured on a CPU, SmolLM2-135M in float32: tokens a
second of processor time rise to 64 sequences when generating (74, 96, 126, 149 at 8 to 64; 141 at
128), and when scoring they are the same up to 64 and a sixth less at 256."""
_SHARE = {"cuda": 0.8}
"""Of the free memory that a batch may take; elsewhere half, since others take of it too."""
_FIRST, _GROWTH = 2, 4
"""Sequences that are tried first, and how many times as many may be tried next."""
_SURE = 4
"""A size that would fit so many times needs no trial."""
_HIDDEN = 32 * 2**20
"""Bytes that can hide in what an allocator had kept: no trial counts as less."""


class Batches:
    """Runs work in batches and keeps the batch size that fits.

    Half-precision answers can depend on the batch, so a run has one size, found (see
    `largest_batch`) before anything is measured, recorded and kept, also on resume: then free
    memory changes no result. Only where memory does run out it is halved, for the rest of the run;
    that too is recorded. None starts at START.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = START if size is None else size
        self.on_split: Callable[[int], None] = lambda size: None
        """Called with the new size after each halving."""

    def run(
        self,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], list[Result]],
        length: Callable[[Item], int],
        on_batch: Callable[[Sequence[int], Sequence[Result]], None] = lambda numbers, results: None,
    ) -> list[Result]:
        """Return work's results, one an item of a batch, for all items in their order.

        `on_batch` is called after each batch, with the numbers of its items and their results.

        The longest items go first, so that those of a batch are about as long and memory runs
        out at once or never. ModelError if it does with a single item.
        """
        order = sorted(range(len(items)), key=lambda i: length(items[i]), reverse=True)
        results: dict[int, Result] = {}
        while len(results) < len(items):
            batch = order[len(results) : len(results) + self.size]
            done = _within_memory(work, [items[i] for i in batch])
            if done is None:
                self._halve(len(batch))
            else:
                results |= zip(batch, done, strict=True)
                on_batch(batch, done)
        return [results[i] for i in range(len(items))]

    def _halve(self, failed: int) -> None:
        if failed == 1:
            raise ModelError(
                "memory ran out with a batch of 1, expected at least one sequence to fit",
                hint="take a smaller model, --dtype bfloat16, fewer new tokens "
                "(--set task.max_new_tokens=...), or --device cpu",
            )
        self.size = failed // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.on_split(self.size)


def largest_batch(
    fill: Callable[[Batches], None],
    device: torch.device,
    most: int,
    free: Callable[[torch.device], int] = free_memory,
) -> int:
    """Return how many sequences fit into the free memory of `device`: `most`, or a power of 2.

    Grows from a few sequences: what a trial took predicts what the next will take, so that none is
    tried that may not fit; on a CPU the system would end the process. Memory alone decides, and
    never a time: that would give the same seed another batch, and other bits, from run to run.

    Args:
        fill: works in batches of the size given, as long as they can be.
        most: sequences, at least 1.
        free: what is free on a device, in bytes.
    """
    size = min(_FIRST, most)
    while True:
        trial = Batches(size)
        with memory_taken(device) as taken:
            fill(trial)
        if trial.size < size or size == most:
            return trial.size
        room = _SHARE.get(device.type, 0.5) * free(device)
        fits = int(room * size / max(taken.nbytes, _HIDDEN))
        if fits >= _SURE * most:
            return most
        grown = min(_GROWTH * size, most, _power_of_two(fits))
        if grown <= size:
            return grown
        size = grown


def _power_of_two(number: int) -> int:
    """Return the largest power of 2 that is no more than a number, 1 for those below."""
    return 1 << max(0, number.bit_length() - 1)


def _within_memory(
    work: Callable[[Sequence[Item]], list[Result]], batch: Sequence[Item]
) -> list[Result] | None:
    """Return the results of one batch, or None where memory ran out.

    The exception ends here, and with it the frames that would keep the batch's tensors alive.
    """
    try:
        return work(batch)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return None
