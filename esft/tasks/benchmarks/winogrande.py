"""WinoGrande: sentences with a blank that one of two names fits."""

from collections.abc import Mapping
from typing import Any

from esft.tasks.columns import text_column, wrong_column
from esft.tasks.ids import made_id
from esft.tasks.multiple_choice import choice_row, choice_task
from esft.tasks.task import HubSource, Option, Row

_LABELS = ("1", "2")


def read_winogrande(raw: Mapping[str, Any]) -> Row:
    """A row of allenai/winogrande; answer is "1" or "2".

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    sentence = text_column(raw, "sentence")
    # At the first blank, where lm-evaluation-harness cuts too; published sentences have one.
    before, _, after = sentence.partition("_")
    if not after.strip():
        raise wrong_column("sentence", sentence, "a sentence with a blank (_) and words behind it")
    names = [text_column(raw, f"option{label}") for label in _LABELS]
    answer = text_column(raw, "answer")
    if answer not in _LABELS:
        raise wrong_column("answer", answer, "'1' or '2'")
    return choice_row(
        id=made_id("winogrande", sentence, *names),
        asked=f"{sentence.strip()}\n\nWhich of these fits the blank (_)?",
        options=[
            _option(before, name, after, label) for name, label in zip(names, _LABELS, strict=True)
        ],
        gold=_LABELS.index(answer),
    )


def _option(before: str, name: str, after: str, label: str) -> Option:
    """The blank filled: what follows it is scored, the same words for both options.

    Partial scoring, as in lm-evaluation-harness, which has no acc_norm here: as both are divided
    by 1, ours is acc.
    """
    return Option(
        context=before + name, continuation=f" {after.strip()}", text=name, label=label, length=1
    )


WINOGRANDE = choice_task(
    name="winogrande",
    summary="sentences with a blank that one of two names fits",
    source="allenai/winogrande, winogrande_xl",
    licence="CC BY",
    size="40,398 train, 1,267 validation",
    hub=HubSource(id="allenai/winogrande", config="winogrande_xl"),
    file="winogrande",
    read=read_winogrande,
    splits={"train": "train", "validation": "validation"},
)
