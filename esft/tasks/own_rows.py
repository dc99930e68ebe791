"""One row of a user's own: what it asks, and which answers are right."""

import string
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from esft.errors import TaskError
from esft.tasks.columns import (
    any_column,
    is_text,
    require_ours,
    text_column,
    texts_column,
    wrong_column,
)
from esft.tasks.graders.numbers import parse_number
from esft.tasks.task import Messages, Question, Row, choice_row, row_id, text_options

ROLES = ("system", "user", "assistant")


def read_row(name: str, grader: str, raw: Mapping[str, Any]) -> Row:
    require_ours(raw)
    raw = _as_asked(raw)
    if grader == "choice":
        return _choice_row(raw, _asking_row(raw, name, ()))
    if raw.get("choices") is not None:
        raise wrong_column("choices", raw["choices"], f"none with grader {grader}, or no --grader")
    answers = _right_answers(raw)
    if grader == "number" and any(parse_number(answer) is None for answer in answers):
        raise wrong_column("answer", raw["answer"], "a number, for grader number")
    return _asking_row(raw, name, answers)


def _as_asked(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with the answer in its own column where it is the last message of its chat."""
    messages = raw.get("messages")
    if raw.get("answer") is not None or not isinstance(messages, list) or not messages:
        return raw
    last = messages[-1]
    if not isinstance(last, dict) or last.get("role") != "assistant":
        return raw
    return {**raw, "messages": messages[:-1], "answer": last.get("content")}


def read_program_row(name: str, raw: Mapping[str, Any]) -> Row:
    asked = _as_asked(raw)
    try:
        answers = _right_answers(asked)
    except TaskError:  # what column answer holds is the program's affair
        answers = ()
    return replace(_asking_row(asked, name, answers), facts={"row": dict(raw)})


def _asking_row(raw: Mapping[str, Any], task: str, answers: tuple[str, ...]) -> Row:
    """The row of an object with a prompt or messages; the first right answer is the reference."""
    messages = _asked_messages(raw)
    answer = answers[0] if answers else None
    return Row(
        id=row_id(raw, task, *(message["content"] for message in messages)),
        questions=(Question(messages=messages, reference=answer),),
        answer=answer,
        accepted=answers[1:],
    )


def _asked_messages(raw: Mapping[str, Any]) -> Messages:
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
        expected = f"objects with a role ({', '.join(ROLES)}) and a content that is not empty"
        raise wrong_column("messages", messages, f"a list of {expected}")
    if not messages or messages[-1]["role"] != "user":
        raise wrong_column("messages", messages, "a last message of the user")
    return tuple({name: message[name] for name in ("role", "content")} for message in messages)


def _right_answers(raw: Mapping[str, Any]) -> tuple[str, ...]:
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
    if type(value) in (int, float) and (number := Decimal(repr(value))).is_finite():
        return format(number, "f")
    return None


def _choice_row(raw: Mapping[str, Any], asking: Row) -> Row:
    """What the row `asking` asks, with the choices listed in its last message."""
    messages = asking.questions[0].messages
    texts = texts_column(raw, "choices")
    if not 2 <= len(texts) <= len(string.ascii_uppercase) or len(set(texts)) != len(texts):
        raise wrong_column("choices", texts, "2 to 26 choices, all different")
    asked = "\n\n".join(message["content"] for message in messages)
    return choice_row(
        id=asking.id,
        before=messages[:-1],
        asked=messages[-1]["content"],
        # The prompt form of lm-evaluation-harness for questions with options.
        options=text_options(f"Question: {asked}\nAnswer:", texts, string.ascii_uppercase),
        gold=_gold(raw, texts),
    )


def _gold(raw: Mapping[str, Any], texts: list[str]) -> int:
    """Index of the right choice: column answer has its text, else its letter, else its index."""
    answer = any_column(raw, "answer")
    letters = list(string.ascii_uppercase[: len(texts)])
    for names in (texts, letters):
        if answer in names:
            return names.index(answer)
    if type(answer) is not int or not 0 <= answer < len(texts):
        expected = f"one of the choices, a letter A to {letters[-1]}, or an index from 0"
        raise wrong_column("answer", answer, expected)
    if str(answer) in texts and texts.index(str(answer)) != answer:
        expected = f"a text or a letter: {answer} is the index of {texts[answer]!r}, and a choice"
        raise wrong_column("answer", answer, expected)
    return answer
