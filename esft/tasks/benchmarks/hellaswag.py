"""HellaSwag: beginnings of everyday texts, with four endings each."""

import re
from collections.abc import Mapping
from typing import Any

from esft.tasks.columns import index_column, text_column, texts_column, wrong_column
from esft.tasks.ids import made_id
from esft.tasks.multiple_choice import LETTERS, choice_row, choice_task, text_options
from esft.tasks.task import HubSource, Row

_ENDINGS = 4
_MARKER = re.compile(r"\[.*?\]")


def read_hellaswag(raw: Mapping[str, Any]) -> Row:
    """A row of Rowan/hellaswag; label is "0" to "3", as on the hub, or an int.

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    activity = text_column(raw, "activity_label")
    begun = text_column(raw, "ctx_a")
    # Where the text goes on with a new sentence, ctx_b is empty.
    going_on = "" if raw.get("ctx_b") == "" else text_column(raw, "ctx_b")
    # The prompt form of lm-evaluation-harness, so that accuracies can be compared with it.
    context = _cleaned(f"{activity}: {begun} {going_on.capitalize()}")
    endings = _endings(raw)
    return choice_row(
        id=made_id("hellaswag", context, *endings),
        asked=f"{context}\n\nWhich of these comes next?",
        options=text_options(context, endings, LETTERS),
        gold=_gold(raw),
    )


def _endings(raw: Mapping[str, Any]) -> list[str]:
    endings = texts_column(raw, "endings")
    cleaned = [_cleaned(ending) for ending in endings]
    if len(endings) != _ENDINGS:
        raise wrong_column("endings", endings, f"{_ENDINGS} endings")
    if not all(ending.strip() for ending in cleaned):
        raise wrong_column("endings", endings, "endings that are more than markers in brackets")
    return cleaned


def _gold(raw: Mapping[str, Any]) -> int:
    label = raw.get("label")
    if isinstance(label, str) and label in map(str, range(_ENDINGS)):
        return int(label)
    return index_column(raw, "label", _ENDINGS)


def _cleaned(text: str) -> str:
    """The text without the markers of WikiHow, character for character as the harness has it."""
    return _MARKER.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


HELLASWAG = choice_task(
    name="hellaswag",
    summary="beginnings of everyday texts, with four endings each",
    source="Rowan/hellaswag",
    licence="MIT",
    size="39,905 train, 10,042 validation",
    hub=HubSource(id="Rowan/hellaswag"),
    file="hellaswag",
    read=read_hellaswag,
    splits={"train": "train", "validation": "validation"},
)
