"""How many sequences go through a model at once: halved when memory runs out."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from esft.errors import ModelError
from esft.models.calling import out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

START = 64
"""Sequences at a time until memory says otherwise."""


class Batches:
    """Runs work in batches and keeps the batch size that fits.

    Half-precision answers can depend on the batch, so a size, once found, is kept for the rest
    of the run and recorded: from there on results are the same bits. None starts at START.
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
