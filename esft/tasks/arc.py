"""ARC: science questions of US school tests, with three to five options."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from esft.tasks.columns import text_column, texts_column, wrong_column
from esft.tasks.labels import parse_label
from esft.tasks.task import HubSource, Option, Row, Score, Task


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
    return Row(
        id=text_column(raw, "id"),
        messages=({"role": "user", "content": _message(question, texts, labels)},),
        answer=answer,
        options=tuple(map(partial(_option, question), texts, labels)),
        gold=labels.index(answer),
    )


def grade_arc(row: Row, answer: str) -> Score:
    """1 where `answer` names the right option and no other, by its label or its text."""
    labels = [option.label or "" for option in row.options]
    named = parse_label(answer, labels, [option.text for option in row.options])
    return Score(reward=float(named == row.answer), correct=named == row.answer)


def _option(question: str, text: str, label: str) -> Option:
    # The prompt form of lm-evaluation-harness, so that accuracies can be compared with it.
    return Option(
        context=f"Question: {question}\nAnswer:", continuation=f" {text}", text=text, label=label
    )


def _message(question: str, texts: list[str], labels: list[str]) -> str:
    listed = "\n".join(f"{label}. {text}" for label, text in zip(labels, texts, strict=True))
    kind = "number" if labels[0].isdecimal() else "letter"
    return f"{question}\n\n{listed}\n\nReply with the {kind} of the right answer alone."


def _arc(name: str, config: str, file: str, summary: str) -> Task:
    return Task(
        name=name,
        summary=summary,
        source=f"allenai/ai2_arc, {config}",
        licence="CC BY-SA 4.0",
        scoring="choice",
        scorings=("choice", "generate"),
        max_new_tokens=16,
        hub=HubSource(id="allenai/ai2_arc", config=config),
        file=file,
        read=read_arc,
        grade=grade_arc,
    )


ARC = _arc("arc", "ARC-Challenge", "arc_challenge", "school science questions, the hard ones")
ARC_EASY = _arc("arc-easy", "ARC-Easy", "arc_easy", "school science questions, the easy ones")
