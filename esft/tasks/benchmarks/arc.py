"""ARC: science questions of US school tests, with three to five options."""

from collections.abc import Mapping
from typing import Any

from esft.tasks.columns import text_column, texts_column, wrong_column
from esft.tasks.multiple_choice import choice_row, choice_task, text_options
from esft.tasks.task import HubSource, Row, Task


def read_arc(raw: Mapping[str, Any]) -> Row:
    """A row of allenai/ai2_arc; labels are A to E or 1 to 5.

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    question = text_column(raw, "question")
    texts = texts_column(raw, "choices.text")
    labels = texts_column(raw, "choices.label")
    answer = text_column(raw, "answerKey")
    if len(texts) < 2:
        raise wrong_column("choices.text", texts, "two options or more")
    if len(labels) != len(texts) or len(set(labels)) != len(labels):
        raise wrong_column("choices.label", labels, f"{len(texts)} labels, all different")
    if answer not in labels:
        raise wrong_column("answerKey", answer, f"one of the labels {', '.join(labels)}")
    return choice_row(
        id=text_column(raw, "id"),
        asked=question,
        # The prompt form of lm-evaluation-harness, so that accuracies can be compared with it.
        options=text_options(f"Question: {question}\nAnswer:", texts, labels),
        gold=labels.index(answer),
    )


def _arc(name: str, config: str, file: str, summary: str, size: str) -> Task:
    return choice_task(
        name=name,
        summary=summary,
        source=f"allenai/ai2_arc, {config}",
        licence="CC BY-SA 4.0",
        size=size,
        hub=HubSource(id="allenai/ai2_arc", config=config),
        file=file,
        read=read_arc,
    )


ARC = _arc(
    "arc",
    "ARC-Challenge",
    "arc_challenge",
    "school science questions, the hard ones",
    "1,119 train, 299 validation, 1,172 test",
)
ARC_EASY = _arc(
    "arc-easy",
    "ARC-Easy",
    "arc_easy",
    "school science questions, the easy ones",
    "2,251 train, 570 validation, 2,376 test",
)
