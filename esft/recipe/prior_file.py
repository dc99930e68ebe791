"""The prior tasks that a file lists or `--prior` names, checked all at once."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from esft.errors import RecipeError, TaskError, UnknownTaskError
from esft.recipe.check import Problem, SettingsError
from esft.recipe.prior_line import OWN, PriorSpec, parse_prior_line, repeated
from esft.tasks.registry import get_task, task_names

__all__ = ["PriorSpec", "parse_prior_line", "read_prior_file", "read_priors"]


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A prior task as it is given."""

    text: str
    place: str
    """Where it stands, such as "tasks.txt line 3"."""
    file: Path | None = None
    """The file it stands in; None where it is given by itself."""


def read_prior_file(path: Path) -> tuple[str, ...]:
    """Return the prior tasks of a file, a line each, as [prior] tasks of a recipe takes them.

    A line reads name[:rows] [key=value ...]; what follows a # at its start or behind a space is a
    comment. Paths are looked for in the current folder, else beside the file.

    Raises:
        RecipeError: the file cannot be read or has no tasks; SettingsError with every line that is
            wrong and what is wrong with it.
    """
    return _checked(_lines_of(path))


def read_priors(given: Iterable[str]) -> tuple[str, ...]:
    """Return the prior tasks that `--prior` names: each a file of them, or a line itself.

    Raises:
        RecipeError: as `read_prior_file`, for all that is given.
    """
    lines: list[_Line] = []
    for each in given:
        if _is_list(each):
            lines += _lines_of(Path(each))
        else:
            lines.append(_Line(text=each, place="--prior"))
    return _checked(lines)


def _is_list(given: str) -> bool:
    """Return whether a value of `--prior` is a file of tasks: none of one's own, and no task."""
    if given.endswith(OWN) or given in task_names():
        return False
    return given.endswith(".txt") or os.path.isfile(given)


def _lines_of(path: Path) -> list[_Line]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(
            f"{path} cannot be read: {error.strerror}",
            hint="name a file with a task a line, or a task such as gsm8k:100",
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path} line {line} is no UTF-8, expected text", hint="save the file in UTF-8"
        ) from error
    found = [
        _Line(text=task, place=f"{path} line {number}", file=path)
        for number, line in enumerate(text.split("\n"), start=1)
        if (task := _without_comment(line).strip())
    ]
    if not found:
        raise RecipeError(
            f"{path} has no tasks, expected one a line",
            hint="for example gsm8k:100; esft tasks lists them",
        )
    return found


def _without_comment(line: str) -> str:
    quoted, before = False, " "
    for place, char in enumerate(line):
        if char == "#" and before.isspace() and not quoted:
            return line[:place]
        quoted, before = quoted ^ (char == '"'), char
    return line


def _checked(lines: list[_Line]) -> tuple[str, ...]:
    """Return the lines as a recipe has them, or SettingsError with all that is wrong."""
    specs: list[PriorSpec | None] = []
    problems: list[tuple[int, Problem]] = []
    for number, line in enumerate(lines):
        try:
            specs.append(_found(parse_prior_line(line.text), line))
            _check_task(specs[-1], line)
        except SettingsError as error:
            specs += [None] * (number + 1 - len(specs))
            problems += [(number, each) for each in error.problems]
    problems += [(place, _repetition(lines, before)) for place, before in repeated(specs)]
    if problems:
        problems.sort(key=lambda each: each[0])
        raise SettingsError(_placed(problem, lines[number]) for number, problem in problems)
    return tuple(str(spec) for spec in specs)


def _found(spec: PriorSpec, line: _Line) -> PriorSpec:
    """Return `spec` with the paths that lie beside the file it is from, and not here."""
    if line.file is None:
        return spec
    name = _beside(spec.name, line.file) if spec.name.endswith(OWN) else spec.name
    folder = None if spec.data_dir is None else _beside(spec.data_dir, line.file)
    return replace(spec, name=name, data_dir=folder)


def _beside(name: str, file: Path) -> str:
    there = str(file.parent / name)
    here = os.path.exists(os.path.expanduser(name))
    return there if os.path.exists(there) and not here else name


def _check_task(spec: PriorSpec, line: _Line) -> None:
    """Refuse a task that is not there, or cannot be graded or scored as asked."""
    if spec.name.endswith(OWN) and not os.path.isfile(os.path.expanduser(spec.name)):
        beside = "" if line.file is None else f", nor beside {line.file}"
        raise _refusal(f"{spec.name} is no file in the current folder{beside}", "correct the path")
    try:
        task = get_task(spec.name, spec.grader)
        if spec.scoring is not None or spec.reward is not None:
            task.choose_scoring(spec.scoring, spec.reward)
    except UnknownTaskError as error:
        known = "expected one that esft tasks lists, or a .jsonl or .py file"
        raise _refusal(f"task {spec.name!r} is unknown, {known}", error.hint) from error
    except TaskError as error:
        raise _refusal(str(error), error.hint) from error


def _refusal(message: str, hint: str | None) -> SettingsError:
    if hint is not None:  # what is an option or a setting elsewhere is a key of the line here
        hint = hint.replace("--grader number", "grader=number").replace("--grader", "grader=")
        hint = re.sub(r"\btask\.(?=[a-z])", "", hint)
    return SettingsError([Problem(keys=("prior.tasks",), message=message, hint=hint)])


def _repetition(lines: list[_Line], before: int) -> Problem:
    first = lines[before]
    message = f"the task is there before, expected each once: {first.place} has {first.text}"
    hint = "take one of them out; names that differ in signs or capitals alone count as one"
    return Problem(keys=("prior.tasks",), message=message, hint=hint)


def _placed(problem: Problem, line: _Line) -> Problem:
    """Return a problem with its place; in the hint too, where lines may have a hint each."""
    hint = problem.hint
    if hint is not None and line.file is not None:
        hint = f"{line.place}: {hint}"
    return replace(problem, message=f"{line.place}: {problem.message}", hint=hint)
