"""A user's own task: a .jsonl file with a named grader, or a .py file that grades itself."""

import string
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from esft.errors import TaskError
from esft.tasks.columns import any_column, texts_column, wrong_column
from esft.tasks.graders.numbers import parse_number
from esft.tasks.own_program import own_program
from esft.tasks.own_rows import (
    OwnRows,
    in_all_rows,
    own_file_task,
    own_row,
    own_rows,
    right_answers,
)
from esft.tasks.sources import json_lines
from esft.tasks.task import Row, Task, choice_row, one_answer, text_options
from esft.tasks.words import GRADERS

FIX = "correct the file"


def own_task(path: Path, grader: str | None) -> Task:
    """The task in a .jsonl file, graded by `grader`, or in a .py file, which grades itself."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return _own_jsonl(path, grader)
    if kind != ".py":
        raise TaskError(f"{path} is not a task, expected a .jsonl or a .py file")
    if grader is not None:
        raise TaskError(
            f"{path} has grader {grader!r}, expected none: a program grades with its reward()",
            hint="leave --grader out",
        )
    return own_program(path)


def _own_jsonl(path: Path, grader: str | None) -> Task:
    """The task of a .jsonl file, which is read here, once; its rows are checked when asked for.

    Rows have `prompt` (or `messages`) and `answer`, and where they like `choices`, `split`, `id`.
    """
    rows = own_rows(str(path), json_lines(path, FIX), FIX)
    grader = _fitting_grader(path, grader, rows)
    return own_file_task(
        path,
        summary=f"rows of your own, graded by {grader}",
        size=rows.size,
        grading=GRADERS[grader].grading,
        scorings=("choice", "generate") if grader == "choice" else ("generate",),
        read=partial(_read, path.stem, grader),
        grade=one_answer(GRADERS[grader].grade),
        make_source=lambda: rows,
    )


def _fitting_grader(path: Path, grader: str | None, rows: OwnRows) -> str:
    located = [row for split in rows.splits.values() for row in split]
    fix = "make two files of the rows with choices and of those without"
    have_choices = in_all_rows(located, "choices", fix)
    if grader is None and have_choices:
        return "choice"
    if grader not in GRADERS:
        has = "needs a grader" if grader is None else f"has grader {grader!r}"
        listed = "; ".join(f"{name} ({named.does})" for name, named in GRADERS.items())
        raise TaskError(
            f"{path} {has}, expected one of: {listed}",
            hint="say how answers are graded, such as --grader number",
        )
    if have_choices != (grader == "choice"):
        choices, fix = "choices", "leave --grader out"
        if not have_choices:
            choices, fix = "no choices", "add choices to the rows, or name another grader"
        raise TaskError(
            f"{path} has rows with {choices}, which grader {grader} is not for", hint=fix
        )
    return grader


def _read(name: str, grader: str, raw: Mapping[str, Any]) -> Row:
    if grader == "choice":
        return _choice_row(raw, own_row(raw, name, ()))
    if raw.get("choices") is not None:
        raise wrong_column("choices", raw["choices"], f"none with grader {grader}")
    answers = right_answers(raw)
    if grader == "number" and any(parse_number(answer) is None for answer in answers):
        raise wrong_column("answer", raw["answer"], "a number, for grader number")
    return own_row(raw, name, answers)


def _choice_row(raw: Mapping[str, Any], asking: Row) -> Row:
    """What the row `asking` asks, with the choices listed in its last message."""
    messages = asking.questions[0].messages
    texts = texts_column(raw, "choices")
    if not 2 <= len(texts) <= len(string.ascii_uppercase) or len(set(texts)) != len(texts):
        raise wrong_column("choices", texts, "2 to 26 choices, all different")
    asked = "\n\n".join(message["content"] for message in messages)
    row = choice_row(
        id=asking.id,
        asked=messages[-1]["content"],
        # The prompt form of lm-evaluation-harness for questions with options.
        options=text_options(f"Question: {asked}\nAnswer:", texts, string.ascii_uppercase),
        gold=_gold(raw, texts),
    )
    (question,) = row.questions
    question = replace(question, messages=(*messages[:-1], *question.messages))
    return replace(row, questions=(question,))


def _gold(raw: Mapping[str, Any], texts: list[str]) -> int:
    """Index of the right choice: column answer has its text, else its letter, else its index."""
    answer = any_column(raw, "answer")
    letters = string.ascii_uppercase[: len(texts)]
    if answer in texts:
        return texts.index(answer)
    if isinstance(answer, str) and len(answer) == 1 and answer in letters:
        return letters.index(answer)
    if type(answer) is not int or not 0 <= answer < len(texts):
        raise wrong_column(
            "answer", answer, f"one of the choices, a letter A to {letters[-1]}, or an index from 0"
        )
    if str(answer) in texts and texts.index(str(answer)) != answer:
        raise wrong_column(
            "answer",
            answer,
            f"a text or a letter: {answer} is the index of {texts[answer]!r}, and a choice",
        )
    return answer
