"""Rows and draws from a fixed seed: the same on every machine."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from esft.tasks.task import LocatedRow
from esft.tasks.words import SPLITS

# Six equal shares of all puzzles: four for train, one each for validation and test.
_SHARES = ("train", "train", "train", "train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class GeneratedRows:
    """The rows of one task, made anew each time they are read; there are all splits."""

    name: str
    """What is generated, in words, such as "generated countdown puzzles"."""
    make: Callable[[str], Iterable[Mapping[str, Any]]]
    """The rows of a split; the same at every call."""
    fix: str = "name a folder with other rows as --data-dir"

    def where(self, split: str) -> str:
        return f"{self.name}, {split}"

    def has(self, split: str) -> bool:
        return split in SPLITS

    def rows(self, split: str) -> Iterator[LocatedRow]:
        for number, row in enumerate(self.make(split), start=1):
            yield f"{self.where(split)}, row {number}", dict(row)


class Draws:
    """Draws by Random.random alone, the one method whose sequence Python promises to keep."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def below(self, count: int) -> int:
        """A whole number from 0 to count - 1."""
        return int(self._random.random() * count)

    def word(self, characters: str, shortest: int, longest: int) -> str:
        """`shortest` to `longest` of these characters, each length as likely as another."""
        length = shortest + self.below(longest - shortest + 1)
        return "".join(characters[self.below(len(characters))] for _ in range(length))


def hashed(text: str) -> int:
    """The first 64 bits of the sha256 of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def split_by_hash(text: str) -> str:
    """The split, "train", "validation" or "test", of the puzzle that this text stands for."""
    return _SHARES[hashed(text) % len(_SHARES)]
