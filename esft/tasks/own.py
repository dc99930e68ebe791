"""A user's own task: a .jsonl file with a named grader, or a .py file that grades itself."""

import ast
import hashlib
import math
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any

from esft.errors import TaskError
from esft.tasks.columns import any_column, is_text, text_column, texts_column, wrong_column
from esft.tasks.graders.numbers import parse_number
from esft.tasks.graders.process import GraderProcess
from esft.tasks.sources import LocatedRow, RowSource, json_lines, numbered, split_source
from esft.tasks.task import (
    Messages,
    Question,
    Row,
    Task,
    choice_row,
    one_answer,
    row_id,
    text_options,
)
from esft.tasks.words import GRADERS, OWN, SPLITS

FIX = "correct the file"
ROLES = ("system", "user", "assistant")


def own_task(path: Path, grader: str | None) -> Task:
    """The task in a .jsonl file, graded by `grader`, or in a .py file, which grades itself.

    Rows of a .jsonl file have `prompt` (or `messages`) and `answer`, and where they like `choices`,
    `split`, `id`. The file is read here, once; its rows are checked when asked for.
    """
    if path.suffix == ".py":
        if grader is not None:
            raise TaskError(
                f"{path} has grader {grader!r}, expected none: a program grades with its reward()",
                hint="leave --grader out",
            )
        return _own_program(path)
    located = list(json_lines(path, FIX))
    rows = _own_rows(str(path), located, FIX)
    counts = Counter(raw.get("split") or "train" for _, raw in located)
    if grader is None and any(raw.get("choices") is not None for _, raw in located):
        grader = "choice"
    if grader not in GRADERS:
        has = "needs a grader" if grader is None else f"has grader {grader!r}"
        listed = "; ".join(f"{name} ({named.does})" for name, named in GRADERS.items())
        raise TaskError(
            f"{path} {has}, expected one of: {listed}",
            hint="say how answers are graded, such as --grader number",
        )
    return _own_file_task(
        path,
        summary=f"rows of your own, graded by {grader}",
        size=", ".join(f"{counts[split]:,} {split}" for split in SPLITS if counts[split]),
        grading=GRADERS[grader].grading,
        scorings=("choice", "generate") if grader == "choice" else ("generate",),
        read=partial(_read_row, path.stem, grader),
        grade=one_answer(GRADERS[grader].grade),
        make_source=lambda: rows,
    )


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

    return _own_file_task(
        path,
        summary="a program of your own",
        size=f"what rows() gives, or {path.stem}.jsonl has",
        grading=f"reward() of {path.name}, in at most {process.limit_s:g} s an answer; "
        "correct from 1 on",
        read=partial(_read_program_row, path.stem),
        grade=lambda row, answers: process.grade(row.facts["row"], *answers),
        max_reward=math.inf,
        make_source=cache(partial(_program_rows, path, process)),  # the same ones throughout a run
    )


def _own_file_task(path: Path, **fields: Any) -> Task:
    names = {"name": path.stem, "file": path.stem, "source": str(path)}
    return Task(**names, licence="your own", max_new_tokens=256, **fields)


def _own_rows(name: str, located: Sequence[LocatedRow], fix: str) -> RowSource:
    """The rows by their split column, which all have or none; all are train rows without one."""
    have = [where for where, raw in located if raw.get("split") is not None]
    lack = [where for where, raw in located if raw.get("split") is None]
    if have and lack:
        raise TaskError(
            f"{lack[0]} has no split, but {have[0]} has; expected it in all rows or none",
            hint=f'write "split": "train" into that row, or {fix}',
        )
    by_split: dict[str, list[LocatedRow]] = {split: [] for split in SPLITS}
    for where, raw in located:
        split = raw["split"] if have else "train"
        if split not in SPLITS:
            error = wrong_column("split", split, f"one of {', '.join(SPLITS)}")
            raise TaskError(f"{where}: {error}", hint=f"correct the row, or {fix}")
        by_split[split].append((where, raw))
    splits = {split: rows for split, rows in by_split.items() if rows}
    return split_source(name, lambda: splits, splits.__getitem__, fix)


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


def _read_row(name: str, grader: str, raw: Mapping[str, Any]) -> Row:
    if grader == "choice":
        return _choice_row(raw, _asking_row(raw, name, ()))
    if raw.get("choices") is not None:
        raise wrong_column("choices", raw["choices"], f"none with grader {grader}, or no --grader")
    answers = _right_answers(raw)
    if grader == "number" and any(parse_number(answer) is None for answer in answers):
        raise wrong_column("answer", raw["answer"], "a number, for grader number")
    return _asking_row(raw, name, answers)


def _read_program_row(name: str, raw: Mapping[str, Any]) -> Row:
    try:
        answers = _right_answers(raw)
    except TaskError:  # what column answer holds is the program's affair
        answers = ()
    return replace(_asking_row(raw, name, answers), facts={"row": dict(raw)})


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


def file_hashes(*names: str) -> dict[str, str]:
    """Return the sha256 of the files among names of tasks; of a program also of the rows beside it,
    and of what it imports from there."""
    hashes = {}
    for task in (Path(name).expanduser() for name in names if name.endswith(OWN)):
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
