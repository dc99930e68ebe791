"""The graders that a user names for the rows of their own .jsonl file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from esft.errors import TaskError
from esft.tasks.graders.math_answers import GRADING as MATH_GRADING
from esft.tasks.graders.math_answers import math_grader
from esft.tasks.graders.numbers import last_number, parse_number
from esft.tasks.graders.occurs import occurs
from esft.tasks.multiple_choice import grade_choice
from esft.tasks.task import Grade, Row


@dataclass(frozen=True, kw_only=True)
class NamedGrader:
    """One way to grade answers."""

    does: str
    """What is right, in a few words."""
    grading: str
    """How it grades, in a sentence."""
    make: Callable[[], Callable[[Row, str], Grade]]
    """Makes the grader of one task."""


def grade_exact(row: Row, answer: str) -> Grade:
    """1 where `answer` is a right answer, but for case, runs of spaces and space around it."""
    said = _plain(answer)
    return _right(any(_plain(right) == said for right in _rights(row)))


def grade_contains(row: Row, answer: str) -> Grade:
    """1 where a right answer stands in `answer` as whole words, ignoring case."""
    return _right(any(occurs(right, answer) for right in _rights(row)))


def grade_number(row: Row, answer: str) -> Grade:
    """1 where the last number in `answer` equals a right answer exactly."""
    said = last_number(answer)
    return _right(said is not None and said in {parse_number(right) for right in _rights(row)})


GRADERS = {
    "exact": NamedGrader(
        does="the answer is the whole text",
        grading="1 where the answer equals a right one but for case and space",
        make=lambda: grade_exact,
    ),
    "contains": NamedGrader(
        does="the answer occurs in the text as whole words",
        grading="1 where a right answer occurs in the text as whole words, ignoring case",
        make=lambda: grade_contains,
    ),
    "number": NamedGrader(
        does="the last number in the text equals the answer",
        grading="1 where the last number in the text equals a right one exactly",
        make=lambda: grade_number,
    ),
    "choice": NamedGrader(
        does="the text names the right one of the row's choices",
        grading="1 where the answer names the right option and no other, by its label or its text",
        make=lambda: grade_choice,
    ),
    "math": NamedGrader(
        does="the formula in \\boxed{} equals the answer as mathematics",
        grading=MATH_GRADING,
        make=math_grader,
    ),
}
"""What `--grader` can name."""


def named_grader(name: str | None, where: object) -> NamedGrader:
    """The grader of this name.

    Raises:
        TaskError: there is no such grader, or `name` is None; says for `where` what there is.
    """
    if name in GRADERS:
        return GRADERS[name]
    found = "needs a grader" if name is None else f"has grader {name!r}"
    listed = "; ".join(f"{name} ({grader.does})" for name, grader in GRADERS.items())
    raise TaskError(
        f"{where} {found}, expected one of: {listed}",
        hint="say how answers are graded, such as --grader number",
    )


def _rights(row: Row) -> Iterable[str]:
    return row.accepted if row.answer is None else (row.answer, *row.accepted)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _right(correct: bool) -> Grade:
    return Grade(reward=float(correct), correct=correct)
