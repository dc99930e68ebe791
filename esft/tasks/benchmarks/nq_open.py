"""NQ-Open: questions typed into a search engine, answered in a few words without any document."""

from collections.abc import Mapping
from typing import Any

from esft.tasks.columns import text_column, texts_column, wrong_column
from esft.tasks.graders.text import grade_short
from esft.tasks.ids import made_id
from esft.tasks.task import HubSource, Row, Task, ask, one_answer


def read_nq_open(raw: Mapping[str, Any]) -> Row:
    """A row of google-research-datasets/nq_open; the first of its answers is the reference.

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    question = text_column(raw, "question")
    answers = texts_column(raw, "answer")
    if not answers:
        raise wrong_column("answer", answers, "one answer or more")
    first, *others = dict.fromkeys(text.strip() for text in answers)
    asked = f"{question}\n\nReply with the answer alone, in a few words."
    return Row(
        id=made_id("nq-open", question),
        questions=(ask(asked, reference=first),),
        answer=first,
        accepted=tuple(others),
    )


NQ_OPEN = Task(
    name="nq-open",
    summary="questions that people typed into a search engine, answered in a few words",
    source="google-research-datasets/nq_open",
    licence="CC BY-SA 3.0",
    size="87,925 train, 3,610 validation",
    grading="best token F1 with an accepted answer; correct where one is equal but for case, "
    "punctuation and articles",
    scoring="generate",
    scorings=("generate",),
    max_new_tokens=32,
    hub=HubSource(id="google-research-datasets/nq_open", config="nq_open"),
    file="nq_open",
    read=read_nq_open,
    grade=one_answer(grade_short),
    splits={"train": "train", "validation": "validation"},
)
