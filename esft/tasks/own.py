"""A user's own task: rows with a named grader, or a .py file that grades itself."""

import ast
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from esft.errors import TaskError
from esft.files import slug
from esft.tasks.columns import (
    parse_columns,
    renamed,
    wrong_column,
)
from esft.tasks.graders.process import GraderProcess
from esft.tasks.own_rows import read_program_row, read_row
from esft.tasks.sources import (
    LocatedRow,
    RowSource,
    Splits,
    hub_rows,
    json_lines,
    numbered,
    split_source,
)
from esft.tasks.tables import file_rows
from esft.tasks.task import Task, one_answer
from esft.tasks.words import GRADERS, HUB, SPLITS, is_file

FIX = "correct the file"


def own_task(path: Path, grader: str | None, columns: str | None = None) -> Task:
    """The task in a file of rows, graded by `grader`, or in a .py file, which grades itself.

    Rows have `prompt` (or `messages`) and `answer`, and where they like `choices`, `split`, `id`,
    under these names or as `columns` says. The file is read here, once; its rows are checked when
    asked for.
    """
    if path.suffix == ".py":
        for option, given in (("grader", grader), ("columns", columns)):
            if given is not None:
                why = "a program grades with its reward() and makes rows as it likes"
                raise TaskError(
                    f"{path} has {option} {given!r}, expected none: {why}",
                    hint=f"leave --{option} out",
                )
        return _own_program(path)
    named = parse_columns(columns)
    located = list(file_rows(path, FIX))
    rows = _own_rows(str(path), located, FIX, named)
    # By a row that lacks a column, the others are still told apart.
    ours = [_split_and_choices(raw, named) for _, raw in located]
    counts = Counter(split or "train" for split, _ in ours)
    if grader is None and any(choices is not None for _, choices in ours):
        grader = "choice"
    return _rows_task(
        grader,
        named,
        name=path.stem,
        source=str(path),
        size=", ".join(f"{counts[split]:,} {split}" for split in SPLITS if counts[split]),
        make_source=lambda: rows,
    )


def hub_own_task(name: str, grader: str | None, columns: str | None = None) -> Task:
    """The task in a data set of the hub, hub:ID[:config], downloaded when rows are asked for.

    Its splits are those that it calls as we do; one split alone, whatever it is called, is train.
    """
    id, _, config = name.removeprefix(HUB).partition(":")
    if not id.strip():
        wrong = f"task {name!r} names no data set, expected hub:ID or hub:ID:config"
        raise TaskError(wrong, hint="for example hub:tau/commonsense_qa")
    named, called = parse_columns(columns), slug(name.removeprefix(HUB))
    if grader is None and "choices" in named:
        grader = "choice"

    def answered(row: Mapping[str, Any]) -> bool:
        with suppress(TaskError):  # told when the row is read
            return renamed(row, named).get("answer", row) not in (None, "", -1)
        return True

    def usable(splits: Splits) -> Splits:
        """Those with right answers, which many a test split comes without."""
        there = {split: rows for split, rows in splits.items() if answered(next(iter(rows), {}))}
        return dict(zip(["train"], there.values(), strict=True)) if len(there) == 1 else there

    where = ", ".join(part for part in (id, config) if part)
    return _rows_task(
        grader,
        named,
        name=called,
        source=where,
        size="as the hub has them",
        make_source=cache(partial(hub_rows, where, called, usable)),
    )


def _rows_task(grader: str | None, named: Mapping[str, str], **fields: Any) -> Task:
    """A task of rows whose columns are called as in `named`."""
    if grader not in GRADERS:
        has = "needs a grader" if grader is None else f"has grader {grader!r}"
        listed = "; ".join(f"{known} ({one.does})" for known, one in GRADERS.items())
        raise TaskError(
            f"{fields['source']} {has}, expected one of: {listed}",
            hint="say how answers are graded, such as --grader number",
        )
    return _own_task(
        summary=f"rows of your own, graded by {grader}",
        grading=GRADERS[grader].grading,
        scorings=("choice", "generate") if grader == "choice" else ("generate",),
        read=lambda raw: read_row(fields["name"], grader, renamed(raw, named)),
        grade=one_answer(GRADERS[grader].grade),
        **fields,
    )


def _split_and_choices(raw: Mapping[str, Any], named: Mapping[str, str]) -> tuple[Any, Any]:
    """What a row has of these two, None for what it lacks."""
    with suppress(TaskError):  # told when the row is read
        raw = renamed(raw, named)
    return raw.get("split"), raw.get("choices")


def _own_program(path: Path) -> Task:
    """The task of a program with `reward(row, answer)` and, where it likes, `rows()`.

    It runs in a process of its own, which starts when rows are read or an answer is graded.
    Rewards are any numbers up to 1e38 in size. `reward` gets a row as the file or `rows()` has it,
    with columns prompt or messages and any others; columns answer and id are used where they fit.
    """
    try:
        process = GraderProcess(path)
    except OSError as error:
        raise TaskError(
            f"{path} cannot be read ({error.strerror or error}), expected a program with "
            "reward(row, answer)"
        ) from None

    return _own_task(
        name=path.stem,
        source=str(path),
        summary="a program of your own",
        size=f"what rows() gives, or {path.stem}.jsonl has",
        grading=f"reward() of {path.name}, in at most {process.limit_s:g} s an answer; "
        "correct from 1 on",
        read=partial(read_program_row, path.stem),
        grade=lambda row, answers: process.grade(row.facts["row"], *answers),
        max_reward=math.inf,
        make_source=cache(partial(_program_rows, path, process)),  # the same ones throughout a run
    )


def _own_task(**fields: Any) -> Task:
    return Task(file=fields["name"], licence="your own", max_new_tokens=256, **fields)


def _own_rows(
    name: str, located: Sequence[LocatedRow], fix: str, named: Mapping[str, str] | None = None
) -> RowSource:
    """The rows by their split column, which all have or none; all are train rows without one."""
    splits = [_split_and_choices(raw, named or {})[0] for _, raw in located]
    have = [where for (where, _), split in zip(located, splits, strict=True) if split is not None]
    lack = [where for (where, _), split in zip(located, splits, strict=True) if split is None]
    if have and lack:
        raise TaskError(
            f"{lack[0]} has no split, but {have[0]} has; expected it in all rows or none",
            hint=f'write "split": "train" into that row, or {fix}',
        )
    by_split: dict[str, list[LocatedRow]] = {split: [] for split in SPLITS}
    for (where, raw), split in zip(located, splits, strict=True):
        if have and split not in SPLITS:
            error = wrong_column("split", split, f"one of {', '.join(SPLITS)}")
            raise TaskError(f"{where}: {error}", hint=f"correct the row, or {fix}")
        by_split[split if have else "train"].append((where, raw))
    there = {split: rows for split, rows in by_split.items() if rows}
    return split_source(name, lambda: there, there.__getitem__, fix)


def _program_rows(path: Path, process: GraderProcess) -> RowSource:
    """Those that the program gives, or that the .jsonl of its name beside it has."""
    given = process.rows()
    name, fix = f"rows() of {path}", "correct the program's rows"
    if given == []:
        raise TaskError(f"{name} gives no rows, expected at least one", hint=fix)
    if given is not None:
        return _own_rows(name, list(numbered(name, given)), fix)
    file = path.with_suffix(".jsonl")
    if not file.is_file():
        raise TaskError(
            f"{path} has no function rows(), and there is no {file.name} beside it",
            hint=f"write rows() or {file.name}, or name a folder with "
            f"{path.stem}.train.jsonl as --data-dir",
        )
    return _own_rows(str(file), list(json_lines(file, FIX)), FIX)


def file_hashes(*names: str) -> dict[str, str]:
    """Return the sha256 of the files among names of tasks; of a program also of the rows beside it,
    and of what it imports from there."""
    hashes = {}
    for task in (Path(name).expanduser() for name in names if is_file(name)):
        program = task.suffix == ".py"
        files = [*_imported(task), task.with_suffix(".jsonl")] if program else [task]
        for file in files:
            if file.is_file():
                name = file.relative_to(task.parent).as_posix()
                hashes[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return hashes


def _imported(program: Path) -> list[Path]:
    """Return a program and the modules beside it that it imports, and those that they import."""
    found, left = [], [program]
    while left:
        file = left.pop()
        if file in found or not file.is_file():
            continue
        found.append(file)
        with suppress(SyntaxError, ValueError, RecursionError):  # it will say so when it runs
            for node in ast.walk(ast.parse(file.read_bytes())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module:
                    names = [node.module]
                for module in {program.parent / name.partition(".")[0] for name in names}:
                    left += [module.with_suffix(".py"), *module.rglob("*.py")]
    return found
