"""MATH-500: problems of mathematics competitions, with a formula or a number as the answer."""

from collections.abc import Mapping
from typing import Any

from esft.tasks.columns import text_column
from esft.tasks.graders.math_answers import GRADING, grade_math
from esft.tasks.task import HubSource, Row, Task, ask, one_answer


def read_math_500(raw: Mapping[str, Any]) -> Row:
    """A row of HuggingFaceH4/MATH-500.

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    problem = text_column(raw, "problem")
    asked = f"{problem}\n\nWork it out step by step, and end with the answer in \\boxed{{}}."
    return Row(
        id=text_column(raw, "unique_id"),
        questions=(ask(asked, reference=text_column(raw, "solution")),),
        answer=text_column(raw, "answer"),
    )


MATH_500 = Task(
    name="math-500",
    summary="problems of mathematics competitions, with a formula or a number as the answer",
    source="HuggingFaceH4/MATH-500",
    licence="MIT",
    size="500 test",
    grading=GRADING,
    scoring="generate",
    scorings=("generate",),
    max_new_tokens=512,
    hub=HubSource(id="HuggingFaceH4/MATH-500"),
    file="math_500",
    read=read_math_500,
    grade=one_answer(grade_math),
)
