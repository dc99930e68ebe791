"""A user's own rows: the columns they may have, and the splits that their split column says."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from esft.errors import TaskError
from esft.tasks.columns import any_column, is_text, text_column, wrong_column
from esft.tasks.task import LocatedRow, Question, Row, Task, made_id
from esft.tasks.words import SPLITS

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """Rows in the order of their source, split by split."""

    name: str
    """The file or program, for messages."""
    splits: dict[str, list[LocatedRow]]
    fix: str
    """What to do about rows that are missing or wrong, the end of each hint."""

    def where(self, split: str) -> str:
        return f"{self.name}, split {split}"

    def has(self, split: str) -> bool:
        return split in self.splits

    def rows(self, split: str) -> Iterator[LocatedRow]:
        if not self.has(split):
            raise TaskError(
                f"{self.name} has no {split} rows, it has: {', '.join(self.splits) or 'none'}",
                hint=f'write "split": "{split}" into some rows, or {self.fix}',
            )
        yield from self.splits[split]

    @property
    def size(self) -> str:
        """How many rows there are, in words."""
        return ", ".join(f"{len(rows):,} {split}" for split, rows in self.splits.items())


def own_rows(name: str, located: Iterable[LocatedRow], fix: str) -> OwnRows:
    """The rows by their split column, which all have or none; all are train rows without one."""
    by_split: dict[str, list[LocatedRow]] = {split: [] for split in SPLITS}
    located = list(located)
    has_split = in_all_rows(located, "split", f'write "split": "train" into that row, or {fix}')
    for where, raw in located:
        split = raw["split"] if has_split else "train"
        if split not in SPLITS:
            error = wrong_column("split", split, f"one of {', '.join(SPLITS)}")
            raise TaskError(f"{where}: {error}", hint=f"correct the row, or {fix}")
        by_split[split].append((where, raw))
    splits = {split: rows for split, rows in by_split.items() if rows}
    return OwnRows(name=name, splits=splits, fix=fix)


def in_all_rows(located: Sequence[LocatedRow], column: str, hint: str) -> bool:
    """Whether all rows have something in the column, or none has; TaskError where some have."""
    have = [where for where, raw in located if raw.get(column) is not None]
    lack = [where for where, raw in located if raw.get(column) is None]
    if have and lack:
        message = f"{lack[0]} has no {column}, but {have[0]} has; expected it in all rows or none"
        raise TaskError(message, hint=hint)
    return bool(have)


def _asked_messages(raw: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
    """The chat in column messages, or that of the one message in column prompt."""
    messages = raw.get("messages")
    if messages is None:
        return ({"role": "user", "content": text_column(raw, "prompt")},)
    if raw.get("prompt") is not None:
        raise wrong_column("messages", messages, "nothing in a row that has a prompt too")
    if not isinstance(messages, list) or not all(
        isinstance(message, dict)
        and message.get("role") in ROLES
        and is_text(message.get("content"))
        for message in messages
    ):
        raise wrong_column(
            "messages",
            messages,
            f"a list of objects with a role ({', '.join(ROLES)}) and a content that is not empty",
        )
    if not messages or messages[-1]["role"] != "user":
        raise wrong_column("messages", messages, "a last message of the user")
    return tuple({name: message[name] for name in ("role", "content")} for message in messages)


def right_answers(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The right answers in column answer, a text, a number or a list of them; as texts."""
    value = any_column(raw, "answer")
    texts = [_as_text(answer) for answer in (value if isinstance(value, list) else [value])]
    if not texts or None in texts:
        raise wrong_column("answer", value, "a text, a number, or a list of them")
    return tuple(texts)


def _as_text(value: object) -> str | None:
    """A text as it is, a number in digits without a power; None for anything else."""
    if is_text(value):
        return value
    if type(value) is int:
        return str(value)
    if type(value) is float and math.isfinite(value):
        return format(Decimal(repr(value)), "f")
    return None


def own_row(raw: Mapping[str, Any], task: str, answers: tuple[str, ...], **facts: Any) -> Row:
    """The row of an object with a prompt or messages; the first right answer is the reference."""
    messages = _asked_messages(raw)
    answer = answers[0] if answers else None
    return Row(
        id=row_id(raw, task, *(message["content"] for message in messages)),
        questions=(Question(messages=messages, reference=answer),),
        answer=answer,
        accepted=answers[1:],
        facts=facts,
    )


def own_file_task(path: Path, **fields: Any) -> Task:
    """The task of a user's file; its names follow from the file's."""
    stem, source = path.stem, str(path)
    return Task(
        name=stem, file=stem, source=source, licence="your own", max_new_tokens=256, **fields
    )


def row_id(raw: Mapping[str, Any], task: str, *asked: str) -> str:
    """What is in column id, or one made of what is asked where there is none."""
    value = raw.get("id")
    if value is None:
        return made_id(task, *asked)
    if type(value) is not int and not is_text(value):
        raise wrong_column("id", value, "a text or a whole number")
    return str(value)
