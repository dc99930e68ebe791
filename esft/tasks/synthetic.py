"""Synthetic tasks: copy, reverse, sort, add and the like, in a few characters each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from string import ascii_lowercase, digits

from esft.tasks.generated import Draws, GeneratedRows, hashed, split_by_hash
from esft.tasks.task import Grade, Row, Task, one_answer, prompted_row

SHORTEST, LONGEST = 3, 6  # letters or digits of a word, where their number is not fixed


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
    """The answer to what was drawn."""
    summary: str
    train: int = 4000
    """Puzzles of the train split; validation and test have a quarter each. A split may have more,
    which only `stream` draws."""

    @property
    def sizes(self) -> dict[str, int]:
        """Puzzles of each split."""
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
    """Puzzles of a split without end, drawn from `seed`; some come again. Seed 0 begins as
    `puzzles` does.

    Which split a puzzle belongs to follows from a hash of its sorted characters. So no two splits
    share a puzzle, nor two that differ by the order of characters alone, such as 27+58, 58+27 and
    28+57, or the words abc and cab; this holds across kinds of puzzles too.
    """
    kind = KINDS[name]
    draws = Draws(hashed(f"{name} {split} {seed}"))
    while True:
        drawn = kind.draw(draws)
        if split_of(drawn) == split:
            yield Puzzle(kind.form.format(drawn), kind.solve(drawn))


def split_of(drawn: str) -> str:
    """The split of all puzzles with these characters, whatever their order."""
    return split_by_hash("".join(sorted(drawn)))


_letters, _digits = (
    partial(Draws.word, characters=characters, shortest=SHORTEST, longest=LONGEST)
    for characters in (ascii_lowercase, digits)
)


def _letter_in_word(draws: Draws) -> str:
    # Of three letters, so that the one asked for comes 0 to 5 times.
    few = draws.word(ascii_lowercase, 3, 3)
    return f"{few[0]} in {draws.word(few, 3, 5)}"


def _occurrences(drawn: str) -> str:
    letter, _, word = drawn.partition(" in ")
    return str(word.count(letter))


def _sum(draws: Draws) -> str:
    return f"{10 + draws.below(90)}+{10 + draws.below(90)}"


def _difference(draws: Draws) -> str:
    one, other = 10 + draws.below(90), 10 + draws.below(90)
    return f"{max(one, other)}-{min(one, other)}"


KINDS = {
    "copy-letters": Kind("copy {}", _letters, str, "say 3 to 6 letters again: copy dgac"),
    "reverse-letters": Kind(
        "reverse {}",
        _letters,
        lambda word: word[::-1],
        "say 3 to 6 letters from last to first: reverse dgac",
    ),
    "upper-letters": Kind(
        "upper {}", _letters, str.upper, "say 3 to 6 letters in upper case: upper dgac"
    ),
    "count-letter": Kind(
        "count {}",
        _letter_in_word,
        _occurrences,
        "how often a letter comes in a word: count a in abca",
    ),
    "sort-digits": Kind(
        "sort {}",
        _digits,
        lambda word: "".join(sorted(word)),
        "put 3 to 6 digits in order: sort 52813",
    ),
    "largest-digit": Kind(
        "largest {}", _digits, max, "name the largest of 3 to 6 digits: largest 4719"
    ),
    "add-two-digits": Kind(
        "{}",
        _sum,
        lambda drawn: str(int(drawn[:2]) + int(drawn[3:])),
        "add two numbers of two digits: 27+58",
    ),
    "subtract-two-digits": Kind(
        "{}",
        _difference,
        lambda drawn: str(int(drawn[:2]) - int(drawn[3:])),
        "subtract two numbers of two digits: 84-39",
        train=2000,  # there are 4,095 in all
    ),
}


def grade_exact(row: Row, answer: str) -> Grade:
    """1 where the answer is the right one to the character, but for space around it."""
    correct = answer.strip() == row.answer
    return Grade(reward=float(correct), correct=correct)


def _task(name: str) -> Task:
    return Task(
        name=name,
        summary=KINDS[name].summary,
        source="rows that esft generates from a fixed seed",
        licence="Apache-2.0",
        size=", ".join(f"{size:,} {split}" for split, size in KINDS[name].sizes.items()),
        grading="1 where the answer is exactly the reference, else 0",
        scorings=("exact", "generate"),
        max_new_tokens=8,
        file=name.replace("-", "_"),
        make_source=lambda: GeneratedRows(
            name=f"generated {name} rows", make=lambda split: map(vars, puzzles(name, split))
        ),
        read=partial(prompted_row, name),
        grade=one_answer(grade_exact),
    )


SYNTHETIC = tuple(map(_task, KINDS))
PRIORS = SYNTHETIC[:6]
"""Prior tasks of the embedded model: what it knows."""
TARGETS = SYNTHETIC[6:]
"""Target tasks of the embedded model: what it does badly."""
