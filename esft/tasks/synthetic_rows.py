"""Short puzzles over letters and digits, made from a fixed seed: the same on every machine."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from string import ascii_lowercase, digits

from esft.tasks.draws import Draws

SPLITS = ("train", "validation", "test")
SHORTEST, LONGEST = 3, 6
"""Letters or digits of a word, where their number is not fixed."""
# Six equal shares of all sets of characters: four for train, one each for validation and test.
_SHARES = ("train", "train", "train", "train", "validation", "test")


@dataclass(frozen=True)
class Puzzle:
    """What is asked, and the one right answer (1 to 6 characters)."""

    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of puzzle."""

    form: str
    """The prompt, with {} for what is drawn."""
    draw: Callable[[Draws], str]
    """Draws what differs from puzzle to puzzle."""
    solve: Callable[[str], str]
    """The answer to what was drawn."""
    sizes: dict[str, int] = field(
        default_factory=lambda: {"train": 4000, "validation": 1000, "test": 1000}
    )
    """Puzzles of each split; a split may have more, which only `stream` draws."""


def puzzles(name: str, split: str) -> Iterator[Puzzle]:
    """The puzzles of a split, none of them twice.

    Args:
        name: a kind of puzzle, a key of `KINDS`.
        split: "train", "validation" or "test".
    """
    seen: set[str] = set()
    drawn = stream(name, split, seed=0)
    while len(seen) < KINDS[name].sizes[split]:
        puzzle = next(drawn)
        if puzzle.prompt not in seen:
            seen.add(puzzle.prompt)
            yield puzzle


def stream(name: str, split: str, seed: int) -> Iterator[Puzzle]:
    """Puzzles of a split without end, drawn from `seed`; some come again. Seed 0 begins as
    `puzzles` does.

    Which split a puzzle belongs to follows from a hash of its sorted characters. So no two splits
    share a puzzle, nor two that differ by the order of characters alone, such as 27+58, 58+27 and
    28+57, or the words abc and cab; this holds across kinds of puzzles too.
    """
    kind = KINDS[name]
    draws = Draws(_hashed(f"{name} {split} {seed}"))
    while True:
        drawn = kind.draw(draws)
        if split_of(drawn) == split:
            yield Puzzle(kind.form.format(drawn), kind.solve(drawn))


def split_of(drawn: str) -> str:
    """The split that all puzzles with these characters belong to, whatever their order."""
    return _SHARES[_hashed("".join(sorted(drawn))) % len(_SHARES)]


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _letters(draws: Draws) -> str:
    return draws.word(ascii_lowercase, SHORTEST, LONGEST)


def _digits(draws: Draws) -> str:
    return draws.word(digits, SHORTEST, LONGEST)


def _letter_in_word(draws: Draws) -> str:
    # Of three letters, so that the one asked for comes 0 to 5 times.
    few = draws.word(ascii_lowercase, 3, 3)
    return f"{few[0]} in {draws.word(few, 3, 5)}"


def _occurrences(drawn: str) -> str:
    letter, _, word = drawn.partition(" in ")
    return str(word.count(letter))


def _sum(draws: Draws) -> str:
    return f"{10 + draws.below(90)}+{10 + draws.below(90)}"


def _added(drawn: str) -> str:
    one, _, other = drawn.partition("+")
    return str(int(one) + int(other))


def _difference(draws: Draws) -> str:
    one, other = 10 + draws.below(90), 10 + draws.below(90)
    return f"{max(one, other)}-{min(one, other)}"


def _subtracted(drawn: str) -> str:
    one, _, other = drawn.partition("-")
    return str(int(one) - int(other))


KINDS = {
    "copy-letters": Kind(form="copy {}", draw=_letters, solve=str),
    "reverse-letters": Kind(form="reverse {}", draw=_letters, solve=lambda word: word[::-1]),
    "upper-letters": Kind(form="upper {}", draw=_letters, solve=str.upper),
    "count-letter": Kind(form="count {}", draw=_letter_in_word, solve=_occurrences),
    "sort-digits": Kind(form="sort {}", draw=_digits, solve=lambda word: "".join(sorted(word))),
    "largest-digit": Kind(form="largest {}", draw=_digits, solve=max),
    "add-two-digits": Kind(form="{}", draw=_sum, solve=_added),
    "subtract-two-digits": Kind(
        form="{}",
        draw=_difference,
        solve=_subtracted,
        sizes={"train": 2000, "validation": 500, "test": 500},  # there are 4,095 in all
    ),
}
