"""Prior tasks as text: name[:rows] [key=value ...], one by one or as the lines of a file."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from esft.errors import RecipeError, TaskError, UnknownTaskError
from esft.files import slug
from esft.recipe.check import (
    HANDFUL,
    Problem,
    Settings,
    SettingsError,
    read_text,
    setting,
    shown,
    unknown,
)
from esft.tasks.columns import parse_columns
from esft.tasks.tables import like_named
from esft.tasks.words import (
    GRADERS,
    HUB,
    KNOW,
    KNOW_SOURCE,
    MATCHES,
    OWN,
    REWARDS,
    SCORINGS,
    SPLITS,
    is_file,
)

if TYPE_CHECKING:
    from esft.tasks.task import Task


def _options_to_choose_from(reward: str | None, scoring: str | None) -> Iterator[tuple[str, str]]:
    if reward == "prob" and scoring not in (None, "choice"):
        expected = f'"correct" or "logprob": scoring "{scoring}" has no probability of an option'
        yield expected, 'set reward = "logprob", or scoring = "choice"'


def _columns(text: str) -> str:
    try:
        parse_columns(text)
    except TaskError as error:
        raise SettingsError([Problem(("task.columns",), str(error), error.hint)]) from error
    return text


@dataclass(frozen=True, kw_only=True)
class Answers(Settings):
    """Which task is asked, and how its answers are scored."""

    rules = ((("reward", "scoring"), _options_to_choose_from),)

    name: str = setting(
        "What to tune on: a name that `esft tasks` lists, your own .jsonl, .csv, .parquet or .py "
        "file, or hub:ID[:config], a data set of the hub",
        example="arc",
        flag="--task",
    )
    grader: str | None = setting(
        "How answers to rows of your own are graded",
        unset="as the task does",
        flag="--grader",
        choices=tuple(GRADERS),
    )
    columns: str | None = setting(
        "What the columns of your own rows are called, such as prompt=question,answer=label",
        example="prompt=question,answer=label",
        unset="prompt (or messages), answer, choices, split, id",
        flag="--columns",
        read=_columns,
    )
    scoring: str | None = setting(
        "How a row is scored: by the log-probability of each option, by a greedy answer, or "
        "by whether the greedy answer would be the reference",
        unset="the task's own",
        choices=SCORINGS,
    )
    reward: str | None = setting(
        "What a member is rewarded for: 0 or 1, the probability of the right option, or the "
        "log-probability of the reference answer, a token; of task know both (right, and knowing "
        "whether), correct, align or confidence",
        unset="the task's own",
        choices=REWARDS,
    )
    source: str | None = setting(
        "Of task know, which other task has the rows: its name, or as for a task of your own",
        example="nq-open",
        unset=f"{KNOW_SOURCE} for know",
    )
    match: str | None = setting(
        "Of task know, how a right answer is found: anywhere, or as whole words",
        unset=f"{MATCHES[0]} for know",
        choices=MATCHES,
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
        """Return them with the paths of a file and of the folder as `path` has them."""
        name, source = (
            path(one) if one is not None and is_file(one) else one
            for one in (self.name, self.source)
        )
        folder = None if self.data_dir is None else path(self.data_dir)
        return replace(self, name=name, source=source, data_dir=folder)

    def chosen(self) -> Task:
        """Return the task; TaskError or UnknownTaskError where there is none such."""
        from esft.tasks.registry import get_task  # it reads all tasks: --help does not wait

        return get_task(self.name, self.grader, self.columns, self.source, self.match)

    @property
    def kept_as(self) -> str:
        """Name of the files of its rows: one for a_b and A-b, which no run can have both."""
        plain = [KNOW] if self.source == KNOW_SOURCE else [self.name, self.source]
        names = (name for name in plain if name is not None)
        return slug("-".join(Path(n).stem if is_file(n) else n.removeprefix(HUB) for n in names))

    def is_of(self, other: Answers) -> bool:
        """Return whether both are of one task."""
        return self.kept_as == other.kept_as


@dataclass(frozen=True, kw_only=True)
class PriorSpec(Answers):
    """A prior task; `str` gives the line that `parse_prior_line` reads as an equal one."""

    table = "prior task"

    rows: int | None = setting(
        "Rows of the split, the first by a hash of what they ask", example=100, unset="prior.rows"
    )
    split: str | None = setting("Which rows", unset="test, else validation", choices=SPLITS)

    def __str__(self) -> str:
        line = shlex.quote(self.name if self.rows is None else f"{self.name}:{self.rows}")
        for name in self.declared():
            value = getattr(self, name)
            if name not in ("name", "rows") and value is not None:
                line += f" {name}={shlex.quote(str(value))}"
        return line


def parse_prior_line(text: str) -> PriorSpec:
    """Return the prior task that a line names: name[:rows] [key=value ...].

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
        raise _refusal(f"{shown(text)}: a quote is not closed", fix) from None
    name, colon, rows = first.rpartition(":")
    # C:\x.jsonl, a:b.jsonl and hub:ID:config have a colon of their own.
    of_name = rows.endswith(OWN) or re.search(r"[/\\]", rows)
    if not colon or of_name or (first.startswith(HUB) and not rows.isdecimal()):
        name = first
    else:
        words.insert(0, f"rows={rows}")
    if not name.strip():
        raise _refusal(f"{shown(text)}: the name is missing", "for example gsm8k:100")
    values, problems = _values_of(words)
    try:
        spec = PriorSpec(name=name, **values)
    except SettingsError as error:
        problems += error.problems
    if problems:
        raise SettingsError(
            Problem(
                ("prior.tasks",),
                f"{shown(text)}: {problem.text.removeprefix(f'[{PriorSpec.table}] ')}",
                problem.hint and problem.hint.replace(" = ", "="),  # as a line has it
            )
            for problem in problems
        )
    return spec


def _values_of(words: list[str]) -> tuple[dict[str, object], list[Problem]]:
    declared = {key: setting for key, setting in PriorSpec.declared().items() if key != "name"}
    values: dict[str, object] = {}
    problems: list[Problem] = []
    for word in words:
        key, _, value = word.partition("=")
        if key not in declared:
            problem = unknown(PriorSpec.table, key, value, declared)
            problems.append(problem._replace(hint=f"{problem.hint} (spaces need quotes)"))
        elif key in values:
            problems.append(Problem((), f"{key} is there twice", f"take one {key} out"))
        else:
            whole = declared[key].kind == "int" and re.fullmatch("[0-9]{1,18}", value)
            values[key] = int(value) if whole else value
    return values, problems


def _refusal(message: str, hint: str | None) -> SettingsError:
    return SettingsError([Problem(("prior.tasks",), message, hint)])


def parse_kl_tasks(lines: Iterable[str]) -> tuple[str, ...]:
    """Return [anchor] kl_tasks as they are recorded; SettingsError if one cannot be a task."""
    try:
        return tuple(str(kl_source(text)) for text in lines)
    except SettingsError as error:
        head = "[anchor] kl_tasks: "
        raise SettingsError(
            problem._replace(keys=("anchor.kl_tasks",), text=head + problem.text)
            for problem in error.problems
        ) from None


def kl_source(text: str) -> PriorSpec | Path:
    """Return the task, or the file of prompts, that one of [anchor] kl_tasks means."""
    return Path(text) if text.endswith(".txt") else parse_prior_line(text)


class _Line(NamedTuple):
    text: str
    origin: str
    folder: Path | None = None  # of the file it stands in

    def path(self, name: str) -> str:
        there = name if self.folder is None else str(self.folder / name)
        here = os.path.exists(os.path.expanduser(name))
        return there if os.path.exists(there) and not here else name


def parse_prior_lines(lines: Iterable[str]) -> tuple[str, ...]:
    """Return [prior] tasks as they are recorded; SettingsError if they are wrong, or one twice."""
    return _parse_all([_Line(text, "[prior] tasks") for text in lines], lambda spec: None)


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
        task, path = is_file(value) or value in task_names(), Path(value)
        if task or not (value.endswith(".txt") or os.path.isfile(value)):
            lines.append(_Line(value, "--prior"))
            continue
        text = read_text(path, "name a file with a task a line, or a task such as gsm8k:100")
        of_file = [
            _Line(line.strip(), f"{path} line {number}", path.parent)
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip() and not line.lstrip().startswith("#")
        ]
        if not of_file:
            hint = "for example gsm8k:100; esft tasks lists them"
            raise RecipeError(f"{path} has no tasks, expected one a line", hint=hint)
        lines += of_file
    return _parse_all(lines, require_task)


def _parse_all(lines: Iterable[_Line], check: Callable[[PriorSpec], None]) -> tuple[str, ...]:
    specs: list[str] = []
    problems: list[Problem] = []
    lines_by_task: dict[str, _Line] = {}
    lines = list(lines)
    for number, line in enumerate(lines):
        if len(problems) >= HANDFUL:
            text = (
                f"{line.origin}: not looked at, nor is what follows ({len(lines) - number:,} lines)"
            )
            problems.append(Problem(("prior.tasks",), text, None))
            break
        try:
            spec = parse_prior_line(line.text).with_paths(line.path)
            check(spec)
            before = lines_by_task.setdefault(spec.kept_as, line)
            if before is not line:
                raise _refusal(
                    f"{shown(line.text)}: the task is there before, expected each once: "
                    f"{before.origin} has {shown(before.text)}",
                    "take one out; names that differ in signs or capitals alone count as one",
                )
            specs.append(str(spec))
        except SettingsError as error:
            head = f"{line.origin}: "
            for keys, text, hint in error.problems:
                # In the hint too, where lines of a file may have a hint each.
                hint = hint and (head if line.folder else "") + hint
                problems.append(Problem(keys, head + text, hint))
    if problems:
        raise SettingsError(problems)
    return tuple(specs)


def require_task(spec: Answers) -> None:
    """SettingsError if a task is not there, or cannot be graded or scored as asked."""
    path = Path(os.path.expanduser(spec.name))
    if is_file(spec.name) and not os.path.isfile(path):
        fix = like_named(path) or "correct the path"
        raise _refusal(f"{spec.name} is not a file, here or beside the list", fix)
    try:
        task = spec.chosen()
        if spec.scoring is not None or spec.reward is not None:
            task.choose_scoring(spec.scoring, spec.reward)
    except UnknownTaskError as error:
        known = "expected one that esft tasks lists, a file of your own, or hub:ID"
        raise _refusal(f"task {spec.name!r} is unknown, {known}", error.hint) from error
    except TaskError as error:
        hint = error.hint or ""  # what is an option elsewhere is a key of the line
        hint = hint.replace("--grader number", "grader=number").replace("--grader", "grader=")
        raise _refusal(str(error), hint or None) from error
