"""A user's own task in a .py file, which grades the answers itself."""

import math
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from esft.errors import TaskError
from esft.tasks.graders.process import GraderProcess
from esft.tasks.own_rows import OwnRows, own_file_task, own_row, own_rows, right_answers
from esft.tasks.sources import json_lines
from esft.tasks.task import Grade, Row, Task, one_answer


def own_program(path: Path) -> Task:
    """The task of a program with `reward(row, answer)` and, where it likes, `rows()`.

    The program runs in a process of its own, which starts when rows are read or an answer is
    graded; a TaskError then says what it raises on import. Rewards are any finite numbers, and
    an answer is correct from 1 on. `reward` gets a row as the file or `rows()` has it, with
    columns prompt or messages and any others; columns answer and id are used where they fit.
    """
    try:
        process = GraderProcess(path)
    except OSError as error:
        raise TaskError(
            f"{path} cannot be read ({error.strerror or error}), expected a program with "
            "reward(row, answer)"
        ) from None

    def grade(row: Row, answer: str) -> Grade:
        return process.grade(row.facts["row"], answer)

    return own_file_task(
        path,
        summary="a program of your own",
        size=f"what rows() gives, or {path.stem}.jsonl has",
        grading=f"reward() of {path.name}, in at most {process.limit_s:g} s an answer; "
        "correct from 1 on",
        scorings=("generate",),
        read=partial(_read, path.stem),
        grade=one_answer(grade),
        max_reward=math.inf,
        make_source=cache(partial(_rows, path, process)),  # a run has the same ones throughout
    )


def _rows(path: Path, process: GraderProcess) -> OwnRows:
    """Those that the program gives, or that the .jsonl of its name beside it has."""
    given = process.rows()
    name, fix = f"rows() of {path}", "correct the program's rows"
    if given == []:
        raise TaskError(f"{name} gives no rows, expected at least one", hint=fix)
    if given is not None:
        numbered = enumerate(given, start=1)
        return own_rows(name, ((f"{name}, row {number}", row) for number, row in numbered), fix)
    file = path.with_suffix(".jsonl")
    if not file.is_file():
        raise TaskError(
            f"{path} has no function rows(), and there is no {file.name} beside it",
            hint=f"write rows() or {file.name}, or name a folder with "
            f"{path.stem}.train.jsonl as --data-dir",
        )
    return own_rows(str(file), json_lines(file, "correct the file"), "correct the file")


def _read(name: str, raw: Mapping[str, Any]) -> Row:
    """A Row of an object, which goes to the program as it is."""
    try:
        answers = right_answers(raw)
    except TaskError:  # what column answer holds is the program's affair
        answers = ()
    return own_row(raw, name, answers, row=dict(raw))
