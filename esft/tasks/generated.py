"""Rows that a function makes, split by split, instead of a file or the hub."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from esft.errors import TaskError


@dataclass(frozen=True, kw_only=True)
class GeneratedRows:
    """The splits of one task, made anew each time they are read."""

    name: str
    """What is generated, in words, such as "generated countdown puzzles"."""
    make: Callable[[str], Iterable[Mapping[str, Any]]]
    """The rows of a split; the same at every call."""
    splits: tuple[str, ...]
    """The splits that `make` knows."""
    fix: str = "name a folder with other rows as --data-dir"

    def where(self, split: str) -> str:
        """What is generated and the split, for messages."""
        return f"{self.name}, {split}"

    def has(self, split: str) -> bool:
        """Whether there is such a split."""
        return split in self.splits

    def rows(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Place and object of each row, numbered from 1.

        Raises:
            TaskError: there is no such split, or it has no rows.
        """
        if not self.has(split):
            there = ", ".join(self.splits)
            raise TaskError(f"{self.name} have no split {split}, they have: {there}", hint=self.fix)
        found = False
        for number, row in enumerate(self.make(split), start=1):
            found = True
            yield f"{self.where(split)}, row {number}", dict(row)
        if not found:
            raise TaskError(f"{self.where(split)} has no rows", hint=self.fix)
