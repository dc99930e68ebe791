"""Conciseness: short questions whose answers should be as long as the reference, and no longer."""

from collections.abc import Mapping
from typing import Any

from esft.tasks.columns import text_column
from esft.tasks.graders.text import occurs
from esft.tasks.ids import made_id
from esft.tasks.task import Grade, Row, Task, ask, one_answer

NO_REWARD_AT = 100
"""Characters of difference in length from which the reward is 0."""


def read_conciseness(raw: Mapping[str, Any]) -> Row:
    """A row of prompt and answer.

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    prompt = text_column(raw, "prompt")
    answer = text_column(raw, "answer").strip()
    return Row(
        id=made_id("conciseness", prompt),
        questions=(ask(prompt, reference=answer),),
        answer=answer,
    )


def grade_conciseness(row: Row, answer: str) -> Grade:
    """Reward the length of the reference: max(0, 1 - |difference in characters| / 100).

    The reward does not look at the words; correct says whether the reference is among them, as
    whole words, ignoring case. Characters are those of the answer without the space around it.

    Source: the conciseness task of arXiv:2509.24372, whose reward is minus the difference; ours
    is brought to 0..1 like that of every task.
    """
    difference = abs(len(answer.strip()) - len(row.answer))
    return Grade(reward=max(0.0, 1 - difference / NO_REWARD_AT), correct=occurs(row.answer, answer))


CONCISENESS = Task(
    name="conciseness",
    summary="short questions of general knowledge, answered as briefly as the reference",
    source="rows that ship with esft",
    licence="Apache-2.0",
    size="220 train, 220 validation, 200 test",
    grading="1 - difference in characters to the reference / 100, at least 0; correct where the "
    "reference occurs in the answer, as whole words",
    scoring="generate",
    scorings=("generate",),
    max_new_tokens=64,
    file="conciseness",
    read=read_conciseness,
    grade=one_answer(grade_conciseness),
)
