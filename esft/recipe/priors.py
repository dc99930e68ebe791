"""Prior tasks as text: name[:rows] [key=value ...], one by one or as the lines of a file."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from esft.errors import RecipeError, TaskError, UnknownTaskError
from esft.files import slug
from esft.recipe.check import Problem, Settings, SettingsError, setting, shown, unknown
from esft.tasks.words import GRADERS, REWARDS, SCORINGS, SPLITS

OWN = (".jsonl", ".py")
"""How the names of files with a user's own tasks end."""


def _options_to_choose_from(reward: str | None, scoring: str | None) -> tuple[str, str] | None:
    if reward != "prob" or scoring in (None, "choice"):
        return None
    return (
        f'"correct" or "logprob": scoring "{scoring}" has no probability of an option',
        'set reward = "logprob", or scoring = "choice"',
    )


@dataclass(frozen=True, kw_only=True)
class Answers(Settings):
    """Which task is asked, and how its answers are scored."""

    rules = ((("reward", "scoring"), _options_to_choose_from),)

    name: str = setting(
        "What to tune on: a name that `esft tasks` lists, or your own .jsonl or .py file",
        example="arc",
        flag="--task",
    )
    grader: str | None = setting(
        "How answers to a .jsonl file are graded",
        unset="as the task does",
        flag="--grader",
        choices=tuple(GRADERS),
    )
    scoring: str | None = setting(
        "How a row is scored: by the log-probability of each option, by a greedy answer, or "
        "by whether the greedy answer would be the reference",
        unset="the task's own",
        choices=SCORINGS,
    )
    reward: str | None = setting(
        "What a member is rewarded for: 0 or 1, the probability of the right option, or the "
        "log-probability of the reference answer, a token",
        unset="the task's own",
        choices=REWARDS,
    )
    max_new_tokens: int | None = setting(
        "Cap on the tokens of an answer", example=64, unset="the task's own"
    )
    data_dir: str | None = setting(
        "Folder of <task>.<split>.jsonl files",
        example="data",
        unset="$ESFT_DATA_DIR, else the task's own rows or the hub",
        flag="--data-dir",
    )

    def with_paths(self, path: Callable[[str], str]) -> Self:
        """Return them with their paths, of a file and of the folder, as `path` has them."""
        name = path(self.name) if self.name.endswith(OWN) else self.name
        folder = None if self.data_dir is None else path(self.data_dir)
        return replace(self, name=name, data_dir=folder)


@dataclass(frozen=True, kw_only=True)
class PriorSpec(Answers):
    """A prior task: on which of its rows, scored how.

    `str` gives the line that `parse_prior_line` reads as an equal spec.
    """

    table = "prior task"

    rows: int | None = setting("The first rows of the split", example=100, unset="prior.rows")
    split: str | None = setting("Which rows", unset="test, else validation", choices=SPLITS)

    def __str__(self) -> str:
        rows = "" if self.rows is None else f":{self.rows}"
        values = {name: getattr(self, name) for name in self.declared()}
        settings = [
            f"{name}={shlex.quote(str(value))}"
            for name, value in values.items()
            if name not in ("name", "rows") and value is not None
        ]
        return " ".join([shlex.quote(self.name + rows), *settings])

    @property
    def task(self) -> str:
        """Name of the task: of a file, without its folder and ending."""
        return Path(self.name).stem if self.name.endswith(OWN) else self.name

    @property
    def kept_as(self) -> str:
        """Name of the files of its rows: one for a_b and A-b, which no run can have both."""
        return slug(self.task)


def parse_prior_line(text: str) -> PriorSpec:
    """Return the prior task that a line names.

    Words and quotes are those of a shell and # begins a comment; a backslash is a character like
    any other, so that a path of Windows is what it looks like. Rows stand behind the last colon of
    the first word; a colon within a path is part of the path.

    Raises:
        SettingsError: with all that is wrong with the line.
    """
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.escape = True, ""
    try:
        first, *words = [*lexer] or [""]
    except ValueError:
        fix = "close it, or put it in quotes of the other kind"
        raise _refusal("a quote is not closed", fix, text) from None
    name, colon, rows = first.rpartition(":")
    # C:\x.jsonl and a:b.jsonl have a colon of their own.
    if not colon or rows.endswith(OWN) or re.search(r"[/\\]", rows):
        name = first
    else:
        words.insert(0, f"rows={rows}")
    if not name.strip():
        raise _refusal("the name is missing", "for example gsm8k:100", text)
    values, problems = _values_of(words)
    try:
        spec = PriorSpec(name=name, **values)
    except SettingsError as error:
        problems += error.problems
    if problems:
        raise SettingsError(
            Problem(
                keys=("prior.tasks",),
                text=problem.text,
                hint=problem.hint and problem.hint.replace(" = ", "="),  # as a line has it
                about=problem.keys[0].partition(".")[2],
                where=f"{shown(text)}: ",
            )
            for problem in problems
        )
    return spec


def _values_of(words: list[str]) -> tuple[dict[str, object], list[Problem]]:
    """Return the values of key=value words, and what is wrong with those that have none."""
    declared = {key: setting for key, setting in PriorSpec.declared().items() if key != "name"}
    values: dict[str, object] = {}
    problems: list[Problem] = []
    for word in words:
        key, _, value = word.partition("=")
        if key not in declared:
            problem = unknown(PriorSpec.table, key, value, declared)
            problems.append(replace(problem, hint=f"{problem.hint} (spaces need quotes)"))
        elif key in values:
            keys, hint = (f"{PriorSpec.table}.{key}",), f"take one {key} out"
            problems.append(Problem(keys=keys, text="is there twice", hint=hint))
        else:
            whole = declared[key].kind == "int" and re.fullmatch("[0-9]{1,18}", value)
            values[key] = int(value) if whole else value
    return values, problems


def _refusal(message: str, hint: str | None, line: str | None = None) -> SettingsError:
    where = "" if line is None else f"{shown(line)}: "
    problem = Problem(keys=("prior.tasks",), text=message, hint=hint, about="", where=where)
    return SettingsError([problem])


class _Line(NamedTuple):
    """A prior task as it is given, where that stands, and the folder of the file it stands in."""

    text: str
    origin: str
    folder: Path | None = None


def parse_prior_lines(lines: Iterable[str]) -> list[PriorSpec]:
    """Return the prior tasks of [prior] tasks; SettingsError where they are wrong, or one twice."""
    return _parse_all([_Line(text, "[prior] tasks") for text in lines])


def read_priors(given: Iterable[str]) -> tuple[str, ...]:
    """Return prior tasks, as [prior] tasks of a recipe has them, of files and single lines.

    Args:
        given: each a line, or the path of a file of them: .txt, or a file that is no task. Paths
            in a file are looked for in the current folder, else beside it.

    Raises:
        RecipeError: a file cannot be read or has no tasks; SettingsError with every line that is
            wrong and what is wrong with it.
    """
    from esft.tasks.registry import task_names

    lines: list[_Line] = []
    for value in given:
        task = value.endswith(OWN) or value in task_names()
        if not task and (value.endswith(".txt") or os.path.isfile(value)):
            lines += _lines_of(Path(value))
        else:
            lines.append(_Line(value, "--prior"))
    return tuple(map(str, _parse_all(lines, _require_task)))


def _parse_all(
    lines: Iterable[_Line], check: Callable[[PriorSpec], None] = lambda spec: None
) -> list[PriorSpec]:
    """Return the prior tasks of lines, each checked, or raise all that is wrong."""
    specs: list[PriorSpec] = []
    problems: list[Problem] = []
    lines_by_task: dict[str, _Line] = {}
    for line in lines:
        try:
            spec = parse_prior_line(line.text)
            if line.folder is not None:
                spec = spec.with_paths(partial(_here_or_in, line.folder))
            check(spec)
            before = lines_by_task.setdefault(spec.kept_as, line)
            if before is not line:
                raise _refusal(
                    "the task is there before, expected each once: "
                    f"{before.origin} has {shown(before.text)}",
                    "take one out; names that differ in signs or capitals alone count as one",
                    line.text,
                )
            specs.append(spec)
        except SettingsError as error:
            head = f"{line.origin}: "
            for problem in error.problems:
                # In the hint too, where lines of a file may have a hint each.
                hint = problem.hint and (head if line.folder else "") + problem.hint
                problems.append(replace(problem, where=head + problem.where, hint=hint))
    if problems:
        raise SettingsError(problems)
    return specs


def _lines_of(path: Path) -> list[_Line]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(
            f"{path} cannot be read: {error.strerror}",
            hint="name a file with a task a line, or a task such as gsm8k:100",
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path} line {line} is not UTF-8, expected text", hint="save the file in UTF-8"
        ) from error
    lines = [
        _Line(line.strip(), f"{path} line {number}", path.parent)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise RecipeError(
            f"{path} has no tasks, expected one a line",
            hint="for example gsm8k:100; esft tasks lists them",
        )
    return lines


def _here_or_in(folder: Path, name: str) -> str:
    there = str(folder / name)
    here = os.path.exists(os.path.expanduser(name))
    return there if os.path.exists(there) and not here else name


def _require_task(spec: PriorSpec) -> None:
    """Refuse a task that is not there, or cannot be graded or scored as asked."""
    # They read all tasks, for which --help does not wait.
    from esft.tasks.registry import get_task

    if spec.name.endswith(OWN) and not os.path.isfile(os.path.expanduser(spec.name)):
        raise _refusal(f"{spec.name} is not a file, here or beside the list", "correct the path")
    try:
        task = get_task(spec.name, spec.grader)
        if spec.scoring is not None or spec.reward is not None:
            task.choose_scoring(spec.scoring, spec.reward)
    except UnknownTaskError as error:
        known = "expected one that esft tasks lists, or a .jsonl or .py file"
        raise _refusal(f"task {spec.name!r} is unknown, {known}", error.hint) from error
    except TaskError as error:
        hint = error.hint or ""  # what is an option elsewhere is a key of the line
        hint = hint.replace("--grader number", "grader=number").replace("--grader", "grader=")
        raise _refusal(str(error), hint or None) from error
