"""A user's own task in a .jsonl file, graded by a named grader."""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from esft.errors import TaskError
from esft.tasks.columns import texts_column, wrong_column
from esft.tasks.graders.named import named_grader
from esft.tasks.graders.numbers import parse_number
from esft.tasks.json_lines import json_lines
from esft.tasks.multiple_choice import choice_row, text_options
from esft.tasks.own_columns import asked_messages, right_answers, row_id
from esft.tasks.own_rows import OwnRows, Placed, own_rows
from esft.tasks.task import Question, Row, Task, one_answer

MAX_NEW_TOKENS = 256
FIX = "correct the file"


def own_jsonl(path: Path, grader: str | None) -> Task:
    """The task of a .jsonl file, which is read here, once.

    Rows have `prompt` (or `messages`) and `answer`, and where they like `choices`, `split`, `id`.

    Args:
        path: the file.
        grader: a name of GRADERS; None is "choice" where the rows have choices.

    Raises:
        TaskError: the file cannot be read, is empty, has a line that is no object, a split that
            is none or choices in some of its rows only; or the grader is missing, unknown, or
            not for such rows. What else is wrong in a row is said when the rows are read.
    """
    rows = own_rows(str(path), json_lines(path, FIX), FIX)
    choices = _have_choices(path, rows)
    if grader is None and choices:
        grader = "choice"
    chosen = named_grader(grader, path)
    if choices != (grader == "choice"):
        have, fix = "choices", "leave --grader out"
        if not choices:
            have, fix = "no choices", "add choices to the rows, or name another grader"
        raise TaskError(f"{path} has rows with {have}, which grader {grader} is not for", hint=fix)
    return Task(
        name=path.stem,
        summary=f"rows of your own, graded by {grader}",
        source=str(path),
        licence="your own",
        size=rows.size,
        grading=chosen.grading,
        scoring="choice" if choices else "generate",
        scorings=("choice", "generate") if choices else ("generate",),
        max_new_tokens=MAX_NEW_TOKENS,
        file=path.stem,
        read=_reader(path.stem, grader),
        grade=one_answer(chosen.grade),
        make_source=lambda: rows,
    )


def _have_choices(path: Path, rows: OwnRows) -> bool:
    """Whether the rows have choices; either all have, or none."""
    placed = [row for split in rows.splits.values() for row in split]
    kinds = [raw.get("choices") is not None for _, raw in placed]
    if any(kinds) and not all(kinds):
        raise _mixed(placed[kinds.index(True)], placed[kinds.index(False)])
    return any(kinds)


def _mixed(choosing: Placed, other: Placed) -> TaskError:
    return TaskError(
        f"{other[0]} has no choices, but {choosing[0]} has; expected them in all rows or in none",
        hint="make two files of the rows with choices and of those without",
    )


def _reader(name: str, grader: str | None) -> Callable[[Mapping[str, Any]], Row]:
    """What makes a Row of an object of the file, for the grader's needs."""

    def read(raw: Mapping[str, Any]) -> Row:
        if grader == "choice":
            return _read_choice(raw, name)
        if raw.get("choices") is not None:
            raise wrong_column("choices", raw["choices"], f"none with grader {grader}")
        messages = asked_messages(raw)
        answers = right_answers(raw)
        if grader == "number" and any(parse_number(answer) is None for answer in answers):
            raise wrong_column("answer", raw["answer"], "a number, for grader number")
        return Row(
            id=row_id(raw, name, messages),
            questions=(Question(messages=messages, reference=answers[0]),),
            answer=answers[0],
            accepted=answers[1:],
        )

    return read


def _read_choice(raw: Mapping[str, Any], name: str) -> Row:
    messages = asked_messages(raw)
    texts = texts_column(raw, "choices")
    if not 2 <= len(texts) <= len(string.ascii_uppercase) or len(set(texts)) != len(texts):
        raise wrong_column("choices", texts, "2 to 26 choices, all different")
    asked = "\n\n".join(each["content"] for each in messages)
    # The prompt form of lm-evaluation-harness for questions with options.
    options = text_options(f"Question: {asked}\nAnswer:", texts, string.ascii_uppercase)
    row = choice_row(
        id=row_id(raw, name, messages),
        asked=messages[-1]["content"],
        options=options,
        gold=_gold(raw, texts),
    )
    (question,) = row.questions
    return replace(
        row, questions=(replace(question, messages=(*messages[:-1], *question.messages)),)
    )


def _gold(raw: Mapping[str, Any], texts: Sequence[str]) -> int:
    """Index of the right choice: column answer has its text, else its letter, else its index."""
    if "answer" not in raw:
        raise TaskError(f"column answer is missing, the row has: {', '.join(map(str, raw))}")
    answer = raw["answer"]
    if answer in texts:
        return texts.index(answer)
    letters = string.ascii_uppercase[: len(texts)]
    if isinstance(answer, str) and len(answer) == 1 and answer in letters:
        return letters.index(answer)
    if type(answer) is int and 0 <= answer < len(texts):
        if str(answer) in texts and texts.index(str(answer)) != answer:
            raise wrong_column(
                "answer",
                answer,
                f"a text or a letter: {answer} is the index of {texts[answer]!r}, and a choice",
            )
        return answer
    raise wrong_column(
        "answer", answer, f"one of the choices, a letter A to {letters[-1]}, or an index from 0"
    )
