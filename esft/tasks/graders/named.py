"""The graders that a user names for the rows of their own .jsonl file."""

from collections.abc import Callable
from dataclasses import dataclass

from esft.errors import TaskError
from esft.tasks.graders.choices import GRADING as CHOICE_GRADING
from esft.tasks.graders.choices import grade_choice
from esft.tasks.graders.math_answers import GRADING as MATH_GRADING
from esft.tasks.graders.math_answers import grade_math
from esft.tasks.graders.numbers import grade_number
from esft.tasks.graders.text import grade_contains, grade_exact
from esft.tasks.task import Grade, Row


@dataclass(frozen=True)
class NamedGrader:
    """One way to grade answers."""

    does: str
    """What is right, in a few words."""
    grading: str
    """How it grades, in a sentence."""
    grade: Callable[[Row, str], Grade]


GRADERS = {
    "exact": NamedGrader(
        "the answer is the whole text",
        "1 where the answer equals a right one but for case and space",
        grade_exact,
    ),
    "contains": NamedGrader(
        "the answer occurs in the text as whole words",
        "1 where a right answer occurs in the text as whole words, ignoring case",
        grade_contains,
    ),
    "number": NamedGrader(
        "the last number in the text equals the answer",
        "1 where the last number in the text equals a right one exactly",
        grade_number,
    ),
    "choice": NamedGrader(
        "the text names the right one of the row's choices", CHOICE_GRADING, grade_choice
    ),
    "math": NamedGrader(
        "the formula in \\boxed{} equals the answer as mathematics", MATH_GRADING, grade_math
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
    has = "needs a grader" if name is None else f"has grader {name!r}"
    listed = "; ".join(f"{name} ({grader.does})" for name, grader in GRADERS.items())
    raise TaskError(
        f"{where} {has}, expected one of: {listed}",
        hint="say how answers are graded, such as --grader number",
    )
