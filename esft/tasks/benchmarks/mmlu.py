"""MMLU: exam questions from 57 subjects, with four options each."""

from collections.abc import Mapping, Sequence
from typing import Any

from esft.tasks.columns import index_column, text_column, texts_column, wrong_column
from esft.tasks.ids import made_id
from esft.tasks.multiple_choice import LETTERS, choice_row, choice_task
from esft.tasks.task import HubSource, Option, Row

_CHOICES = 4


def read_mmlu(raw: Mapping[str, Any]) -> Row:
    """A row of cais/mmlu; answer is the index of the right choice.

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    question = text_column(raw, "question")
    choices = texts_column(raw, "choices")
    if len(choices) != _CHOICES:
        raise wrong_column("choices", choices, f"{_CHOICES} choices")
    subject = text_column(raw, "subject")
    return choice_row(
        id=made_id("mmlu", subject, question, *choices),
        asked=question,
        options=lettered_options(subject, question, choices),
        gold=index_column(raw, "answer", _CHOICES),
    )


def lettered_options(subject: str, question: str, choices: Sequence[str]) -> list[Option]:
    """Options listed in the context, scored by their letters.

    The prompt form of lm-evaluation-harness, which takes the letters for the choices: what it
    would divide a log-probability by is 1 for each, so acc_norm is acc.
    """
    listed = "".join(f"{letter}. {text}\n" for letter, text in zip(LETTERS, choices, strict=False))
    context = (
        "The following are multiple choice questions (with answers) about "
        f"{subject.replace('_', ' ')}.\n\n{question.strip()}\n{listed}Answer:"
    )
    return [
        Option(context=context, continuation=f" {letter}", text=text, label=letter, length=1)
        for letter, text in zip(LETTERS, choices, strict=False)
    ]


MMLU = choice_task(
    name="mmlu",
    summary="exam questions from 57 subjects, with four options each",
    source="cais/mmlu, all",
    licence="MIT",
    size="285 train (its dev split), 1,531 validation, 14,042 test",
    hub=HubSource(id="cais/mmlu", config="all"),
    file="mmlu",
    read=read_mmlu,
    splits={"train": "dev", "validation": "validation", "test": "test"},
)
