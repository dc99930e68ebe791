"""TriviaQA: quiz questions, answered in a few words without any document."""

from collections.abc import Mapping
from typing import Any

from esft.tasks.columns import text_column, texts_column
from esft.tasks.graders.text import grade_short, normalised
from esft.tasks.task import HubSource, Row, Task, ask, one_answer


def read_trivia_qa(raw: Mapping[str, Any]) -> Row:
    """A row of mandarjoshi/trivia_qa; its value and all aliases are right.

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    question = text_column(raw, "question")
    value = text_column(raw, "answer.value").strip()
    aliases = [alias.strip() for alias in texts_column(raw, "answer.aliases")]
    answer = _without_capitals(value, aliases)
    asked = f"{question}\n\nReply with the answer alone, in a few words."
    return Row(
        id=text_column(raw, "question_id"),
        questions=(ask(asked, reference=answer),),
        answer=answer,
        accepted=tuple(dict.fromkeys(text for text in (value, *aliases) if text != answer)),
    )


def _without_capitals(value: str, aliases: list[str]) -> str:
    """For a value like "DIEPPE" the alias "Dieppe", or one that differs by more than capitals."""
    if not value.isupper() or len(value) < 4:  # "USA" is no "Usa"
        return value
    plain = [alias for alias in aliases if not alias.isupper()]
    same = [alias for alias in plain if normalised(alias) == normalised(value)]
    return min(same, key=lambda alias: alias.casefold() != value.casefold(), default=value)


TRIVIA_QA = Task(
    name="trivia-qa",
    summary="quiz questions, answered in a few words",
    source="mandarjoshi/trivia_qa, rc.nocontext",
    licence="Apache-2.0",
    size="138,384 train, 17,944 validation",
    grading="best token F1 with an accepted answer; correct where one is equal but for case, "
    "punctuation and articles",
    scoring="generate",
    scorings=("generate",),
    max_new_tokens=32,
    hub=HubSource(id="mandarjoshi/trivia_qa", config="rc.nocontext"),
    file="trivia_qa",
    read=read_trivia_qa,
    grade=one_answer(grade_short),
    splits={"train": "train", "validation": "validation"},
)
