"""Synthetic tasks: copy, reverse, sort, add and the like, in a few characters each."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from string import ascii_lowercase, digits

from esft.tasks.sources import generated_rows
from esft.tasks.task import Grade, Row, Task, one_answer, prompted_row

# Six equal shares of all puzzles: four for train, one each for validation and test.
_SHARES = ("train", "train", "train", "train", "validation", "test")


class Draws:
    """Draws by Random.random alone, the one method whose sequence Python promises to keep."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def below(self, count: int) -> int:
        """A whole number from 0 to count - 1."""
        return int(self._random.random() * count)

    def word(self, characters: str, shortest: int = 3, longest: int = 6) -> str:
        """`shortest` to `longest` of these characters, each length as likely as another."""
        length = shortest + self.below(longest - shortest + 1)
        return "".join(characters[self.below(len(characters))] for _ in range(length))


@dataclass(frozen=True)
class Puzzle:
    """What is asked, and the one right answer (1 to 6 characters)."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Kind:
    form: str
    """The prompt, with {} for what is drawn."""
    draw: Callable[[Draws], str]
    solve: Callable[[str], str]
    does: str
    example: str
    train: int = 4000
    """Puzzles of the train split; validation and test have a quarter each."""

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": self.train, "validation": self.train // 4, "test": self.train // 4}


def puzzles(name: str, split: str) -> Iterator[Puzzle]:
    """The puzzles of a split of a kind of puzzle, a key of `KINDS`; none comes twice."""
    seen: set[str] = set()
    drawn = stream(name, split, seed=0)
    while len(seen) < KINDS[name].sizes[split]:
        puzzle = next(drawn)
        if puzzle.prompt not in seen:
            seen.add(puzzle.prompt)
            yield puzzle


def stream(name: str, split: str, seed: int) -> Iterator[Puzzle]:
    """Puzzles of a split without end, drawn from `seed`; some come again.

    Seed 0 begins as `puzzles` does. The split follows from a hash of the sorted characters, so that
    no two splits share a puzzle, nor any with its characters in another order, of any kind.
    """
    kind = KINDS[name]
    draws = Draws(_hashed(f"{name} {split} {seed}"))
    while True:
        drawn = kind.draw(draws)
        if split_of(drawn) == split:
            yield Puzzle(kind.form.format(drawn), kind.solve(drawn))


def split_of(drawn: str) -> str:
    """The split of all puzzles with these characters, whatever their order."""
    return split_by_hash("".join(sorted(drawn)))


def split_by_hash(text: str) -> str:
    """The split, "train", "validation" or "test", of the puzzle that this text stands for."""
    return _SHARES[_hashed(text) % len(_SHARES)]


def _hashed(text: str) -> int:
    """The first 64 bits of the sha256 of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


_letters = partial(Draws.word, characters=ascii_lowercase)
_digits = partial(Draws.word, characters=digits)


def _letter_in_word(draws: Draws) -> str:
    # Of three letters, so that the one asked for comes 0 to 5 times.
    few = draws.word(ascii_lowercase, 3, 3)
    return f"{few[0]} in {draws.word(few, 3, 5)}"


def _sum(draws: Draws) -> str:
    return f"{10 + draws.below(90)}+{10 + draws.below(90)}"


def _difference(draws: Draws) -> str:
    one, other = 10 + draws.below(90), 10 + draws.below(90)
    return f"{max(one, other)}-{min(one, other)}"


KINDS = {
    "copy-letters": Kind("copy {}", _letters, str, "say 3 to 6 letters again", "dgac"),
    "reverse-letters": Kind(
        "reverse {}",
        _letters,
        lambda word: word[::-1],
        "say 3 to 6 letters from last to first",
        "dgac",
    ),
    "upper-letters": Kind(
        "upper {}", _letters, str.upper, "say 3 to 6 letters in upper case", "dgac"
    ),
    "count-letter": Kind(
        "count {}",
        _letter_in_word,
        lambda drawn: str(drawn[5:].count(drawn[0])),
        "how often a letter comes in a word",
        "a in abca",
    ),
    "sort-digits": Kind(
        "sort {}",
        _digits,
        lambda word: "".join(sorted(word)),
        "put 3 to 6 digits in order",
        "52813",
    ),
    "largest-digit": Kind("largest {}", _digits, max, "name the largest of 3 to 6 digits", "4719"),
    "add-two-digits": Kind(
        "{}",
        _sum,
        lambda drawn: str(int(drawn[:2]) + int(drawn[3:])),
        "add two numbers of two digits",
        "27+58",
    ),
    "subtract-two-digits": Kind(
        "{}",
        _difference,
        lambda drawn: str(int(drawn[:2]) - int(drawn[3:])),
        "subtract two numbers of two digits",
        "84-39",
        train=2000,  # there are 4,095 in all
    ),
}


def grade_exact(row: Row, answer: str) -> Grade:
    """1 where the answer is the right one to the character, but for space around it."""
    correct = answer.strip() == row.answer
    return Grade(reward=float(correct), correct=correct)


def _task(name: str) -> Task:
    kind = KINDS[name]
    return Task(
        name=name,
        summary=f"{kind.does}: {kind.form.format(kind.example)}",
        source="rows that esft generates from a fixed seed",
        licence="Apache-2.0",
        size=", ".join(f"{size:,} {split}" for split, size in kind.sizes.items()),
        grading="1 where the answer is exactly the reference, else 0",
        scorings=("exact", "generate"),
        max_new_tokens=8,
        file=name.replace("-", "_"),
        make_source=partial(
            generated_rows, f"generated {name} rows", lambda split: map(vars, puzzles(name, split))
        ),
        read=partial(prompted_row, name),
        grade=one_answer(grade_exact),
    )


SYNTHETIC = tuple(map(_task, KINDS))
PRIORS, TARGETS = SYNTHETIC[:6], SYNTHETIC[6:]
"""Of the embedded model: what it knows, and what it does badly."""
