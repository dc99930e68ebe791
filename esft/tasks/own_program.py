"""A user's own task in a .py file, which grades the answers itself."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from esft.errors import TaskError
from esft.tasks.graders.process import LIMIT_S, GraderProcess
from esft.tasks.json_lines import json_lines
from esft.tasks.own_columns import asked_messages, right_answers, row_id
from esft.tasks.own_rows import OwnRows, Placed, own_rows
from esft.tasks.task import Grade, Question, Row, Task, one_answer

MAX_NEW_TOKENS = 256


def own_program(path: Path, process: GraderProcess | None = None) -> Task:
    """The task of a program with `reward(row, answer)` and, where it likes, `rows()`.

    The program runs in a process of its own, which starts when rows are read or an answer is
    graded; a TaskError then says what it raises on import. Rewards are any finite numbers, and
    an answer is correct from 1 on. `reward` gets a row as the file or `rows()` has it, with
    columns prompt or messages and any others; columns answer and id are used where they fit.

    Args:
        path: the program.
        process: where it runs; None makes a GraderProcess with the usual limits.

    Raises:
        TaskError: there is no such file.
    """
    if not path.is_file():
        raise TaskError(f"{path} is no file, expected a program with reward(row, answer)")
    process = GraderProcess(path) if process is None else process
    rows = ProgramRows(path=path, process=process)

    def grade(row: Row, answer: str) -> Grade:
        return process.grade(row.facts["row"], answer)

    return Task(
        name=path.stem,
        summary="a program of your own",
        source=str(path),
        licence="your own",
        size=f"what rows() gives, or {path.stem}.jsonl has",
        grading=f"reward() of {path.name}, in at most {LIMIT_S:g} s an answer; correct from 1 on",
        scoring="generate",
        scorings=("generate",),
        max_new_tokens=MAX_NEW_TOKENS,
        file=path.stem,
        read=_reader(path.stem),
        grade=one_answer(grade),
        max_reward=math.inf,
        make_source=lambda: rows,
    )


@dataclass(frozen=True, kw_only=True)
class ProgramRows:
    """The rows that a program gives, or that the .jsonl of its name beside it has."""

    path: Path
    process: GraderProcess = field(repr=False)
    fix: str = "correct the program's rows"

    def where(self, split: str) -> str:
        """Program or file and split, for messages."""
        return self._rows.where(split)

    def has(self, split: str) -> bool:
        """Whether a row is of this split."""
        return self._rows.has(split)

    def rows(self, split: str) -> Iterator[Placed]:
        """Place and object of each row.

        Raises:
            TaskError: the program fails, there are no rows, or none is of this split.
        """
        yield from self._rows.rows(split)

    @cached_property
    def _rows(self) -> OwnRows:
        """All rows, asked for once: a run has the same ones throughout."""
        given = self.process.rows()
        if given is None:
            return self._beside()
        name = f"rows() of {self.path}"
        if not given:
            raise TaskError(f"{name} gives no rows, expected at least one", hint=self.fix)
        placed = [(f"{name}, row {number}", row) for number, row in enumerate(given, start=1)]
        return own_rows(name, placed, self.fix)

    def _beside(self) -> OwnRows:
        file = self.path.with_suffix(".jsonl")
        if not file.is_file():
            raise TaskError(
                f"{self.path} has no function rows(), and there is no {file.name} beside it",
                hint=f"write rows() or {file.name}, or name a folder with "
                f"{self.path.stem}.train.jsonl as --data-dir",
            )
        return own_rows(str(file), json_lines(file, "correct the file"), "correct the file")


def _reader(name: str) -> Callable[[Mapping[str, Any]], Row]:
    """What makes a Row of an object, which goes to the program as it is."""

    def read(raw: Mapping[str, Any]) -> Row:
        messages = asked_messages(raw)
        answers = _answers(raw)
        answer = answers[0] if answers else None
        return Row(
            id=row_id(raw, name, messages),
            questions=(Question(messages=messages, reference=answer),),
            answer=answer,
            accepted=answers[1:],
            facts={"row": dict(raw)},
        )

    return read


def _answers(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The right answers, where column answer has any: what it holds is the program's affair."""
    try:
        return right_answers(raw)
    except TaskError:
        return ()
