"""The columns of a user's own rows: what is asked, and what is right."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from esft.errors import TaskError
from esft.tasks.columns import is_text, text_column, wrong_column
from esft.tasks.ids import made_id

ROLES = ("system", "user", "assistant")
SPLITS = ("train", "validation", "test")

Messages = tuple[dict[str, str], ...]


def asked_messages(raw: Mapping[str, Any]) -> Messages:
    """The chat in column messages, or that of the one message in column prompt.

    Raises:
        TaskError: neither of the columns is there, or both are, or one is wrong.
    """
    messages = raw.get("messages")
    if messages is None:
        return ({"role": "user", "content": text_column(raw, "prompt")},)
    if raw.get("prompt") is not None:
        raise wrong_column("messages", messages, "nothing in a row that has a prompt too")
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise wrong_column(
            "messages",
            messages,
            f"a list of objects with a role ({', '.join(ROLES)}) and a content that is not empty",
        )
    if not messages or messages[-1]["role"] != "user":
        raise wrong_column("messages", messages, "a last message of the user")
    return tuple({"role": each["role"], "content": each["content"]} for each in messages)


def right_answers(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The right answers in column answer, as texts: one or more.

    Raises:
        TaskError: the column is missing, or holds no text, number or list of them.
    """
    if "answer" not in raw:
        raise TaskError(f"column answer is missing, the row has: {', '.join(map(str, raw))}")
    value = raw["answer"]
    texts = [_as_text(each) for each in (value if isinstance(value, list) else [value])]
    if not texts or None in texts:
        raise wrong_column("answer", value, "a text, a number, or a list of them")
    return tuple(texts)


def row_id(raw: Mapping[str, Any], task: str, messages: Messages) -> str:
    """What is in column id, or one made of what is asked where there is none.

    Raises:
        TaskError: the column holds neither a text nor a whole number.
    """
    value = raw.get("id")
    if value is None:
        return made_id(task, *(each["content"] for each in messages))
    if is_text(value):
        return value
    if type(value) is int:
        return str(value)
    raise wrong_column("id", value, "a text or a whole number")


def split_of(raw: Mapping[str, Any]) -> str | None:
    """What is in column split; None where there is none.

    Raises:
        TaskError: the column holds something else than the name of a split.
    """
    value = raw.get("split")
    if value is not None and value not in SPLITS:
        raise wrong_column("split", value, f"one of {', '.join(SPLITS)}")
    return value


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and value.get("role") in ROLES and is_text(value.get("content"))


def _as_text(value: object) -> str | None:
    """A text as it is, a number in digits without a power; None for anything else."""
    if is_text(value):
        return value
    if type(value) is int:
        return str(value)
    if type(value) is float and math.isfinite(value):
        return format(Decimal(repr(value)), "f")
    return None
