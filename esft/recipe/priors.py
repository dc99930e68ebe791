"""Prior tasks as text: name[:rows] [key=value ...], one by one or as the lines of a file."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

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
        None,
        "What to tune on: a name that `esft tasks` lists, or your own .jsonl or .py file",
        example="arc",
        flag="--task",
    )
    grader: str | None = setting(
        None,
        "How answers to a .jsonl file are graded",
        unset="as the task does",
        flag="--grader",
        choices=tuple(GRADERS),
    )
    scoring: str | None = setting(
        None,
        "How a row is scored: by the log-probability of each option, by a greedy answer, or "
        "by whether the greedy answer would be the reference",
        unset="the task's own",
        choices=SCORINGS,
    )
    reward: str | None = setting(
        None,
        "What a member is rewarded for: 0 or 1, the probability of the right option, or the "
        "log-probability of the reference answer, a token",
        unset="the task's own",
        choices=REWARDS,
    )
    max_new_tokens: int | None = setting(
        None, "Cap on the tokens of an answer", example=64, unset="the task's own", at_least=1
    )
    data_dir: str | None = setting(
        None,
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

    rows: int | None = setting(
        None, "The first rows of the split", example=100, unset="prior.rows", at_least=1
    )
    split: str | None = setting(None, "Which rows", unset="test, else validation", choices=SPLITS)

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
        words = list(lexer)
    except ValueError:
        message, hint = "a quote is not closed", "close it, or put it in quotes of the other kind"
        raise _refusal(f"{shown(text)}: {message}", hint) from None
    name, rows = _name_and_rows(words[0] if words else "")
    if not name.strip():
        raise _refusal(f"{shown(text)}: the name is missing", "for example gsm8k:100")
    given, problems = _settings([*([] if rows is None else [f"rows={rows}"]), *words[1:]])
    try:
        spec = PriorSpec(name=name, **given)
    except SettingsError as error:
        problems += error.problems
    if problems:
        raise SettingsError(
            replace(
                problem,
                keys=("prior.tasks",),
                message=f"{shown(text)}: {problem.message.removeprefix(f'[{PriorSpec.table}] ')}",
                hint=problem.hint and problem.hint.replace(" = ", "="),
            )
            for problem in problems
        )
    return spec


def parse_prior_lines(lines: Iterable[str]) -> list[PriorSpec]:
    """Return the prior tasks of [prior] tasks, each of them once.

    Raises:
        SettingsError: with all that is wrong with them.
    """
    return _read([_Line(text=text, origin="[prior] tasks") for text in lines])


def read_priors(given: Iterable[str]) -> tuple[str, ...]:
    """Return prior tasks, as [prior] tasks of a recipe has them, of files and single lines.

    Args:
        given: each a line, or the path of a file of them: .txt, or a file that is no task. Paths
            in a file are looked for in the current folder, else beside it.

    Raises:
        RecipeError: a file cannot be read or has no tasks; SettingsError with every line that is
            wrong and what is wrong with it.
    """
    lines: list[_Line] = []
    for value in given:
        lines += (
            _lines_of(Path(value)) if _is_list(value) else [_Line(text=value, origin="--prior")]
        )
    return tuple(map(str, _read(lines, _require_task)))


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A prior task as it is given."""

    text: str
    origin: str
    """Where it stands, such as "tasks.txt line 3"."""
    file: Path | None = None
    """The file it stands in; None where it is given by itself."""


def _read(
    lines: Iterable[_Line], check: Callable[[PriorSpec], None] = lambda spec: None
) -> list[PriorSpec]:
    """Return the prior tasks of lines, each checked, or raise all that is wrong."""
    specs: list[PriorSpec] = []
    problems: list[Problem] = []
    first: dict[str, _Line] = {}
    for line in lines:
        try:
            spec = _beside(parse_prior_line(line.text), line.file)
            check(spec)
            before = first.setdefault(spec.kept_as, line)
            if before is not line:
                raise _refusal(
                    f"{shown(line.text)}: the task is there before, expected each once: "
                    f"{before.origin} has {shown(before.text)}",
                    "take one out; names that differ in signs or capitals alone count as one",
                )
            specs.append(spec)
        except SettingsError as error:
            # In the hint too, where lines of a file may have a hint each.
            head = f"{line.origin}: "
            problems += [
                replace(
                    problem,
                    message=head + problem.message,
                    hint=problem.hint and (head if line.file else "") + problem.hint,
                )
                for problem in error.problems
            ]
    if problems:
        raise SettingsError(problems)
    return specs


def _is_list(given: str) -> bool:
    """Return whether a value of --prior is a file of tasks: none of one's own, and no task."""
    from esft.tasks.registry import task_names

    if given.endswith(OWN) or given in task_names():
        return False
    return given.endswith(".txt") or os.path.isfile(given)


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
        _Line(text=line.strip(), origin=f"{path} line {number}", file=path)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise RecipeError(
            f"{path} has no tasks, expected one a line",
            hint="for example gsm8k:100; esft tasks lists them",
        )
    return lines


def _beside(spec: PriorSpec, file: Path | None) -> PriorSpec:
    """Return `spec` with the paths that lie beside the file it is from, and not here."""

    def path(name: str) -> str:
        there = str(file.parent / name)
        here = os.path.exists(os.path.expanduser(name))
        return there if os.path.exists(there) and not here else name

    if file is None:
        return spec
    return spec.with_paths(path)


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
        hint = error.hint or ""  # what is an option or a setting elsewhere is a key of the line
        hint = hint.replace("--grader number", "grader=number").replace("--grader", "grader=")
        raise _refusal(str(error), re.sub(r"\btask\.(?=[a-z])", "", hint) or None) from error


def _settings(words: list[str]) -> tuple[dict[str, object], list[Problem]]:
    """Return the values of key=value words, and what is wrong with those that have none."""
    declared = {key: setting for key, setting in PriorSpec.declared().items() if key != "name"}
    given: dict[str, object] = {}
    problems: list[Problem] = []
    for word in words:
        key, _, value = word.partition("=")
        if key not in declared:
            problem = unknown(PriorSpec.table, key, value, declared)
            problems.append(replace(problem, hint=f"{problem.hint} (spaces need quotes)"))
        elif key in given:
            problems += _refusal(f"{key} is there twice", f"take one {key} out").problems
        else:
            whole = declared[key].kind == "int" and re.fullmatch("[0-9]{1,18}", value)
            given[key] = int(value) if whole else value
    return given, problems


def _name_and_rows(text: str) -> tuple[str, str | None]:
    name, colon, rows = text.rpartition(":")
    # C:\x.jsonl and a:b.jsonl have a colon of their own.
    if not colon or text.endswith(OWN) or re.search(r"[/\\]", rows):
        return text, None
    return name, rows


def _refusal(message: str, hint: str | None) -> SettingsError:
    return SettingsError([Problem(keys=("prior.tasks",), message=message, hint=hint)])
