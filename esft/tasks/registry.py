"""The tasks that come with esft, by name."""

import difflib
import os
from pathlib import Path

from esft.errors import TaskError, UnknownTaskError
from esft.tasks.benchmarks.answers import ANSWERED
from esft.tasks.benchmarks.choice import CHOICE
from esft.tasks.benchmarks.countdown import COUNTDOWN, COUNTDOWN_3TO4
from esft.tasks.know import know_task
from esft.tasks.own import hub_own_task, own_task
from esft.tasks.synthetic import SYNTHETIC
from esft.tasks.tables import like_named
from esft.tasks.task import Task
from esft.tasks.words import HUB, KNOW, KNOW_SOURCE, OWN, is_file

_TASKS = {task.name: task for task in (*CHOICE, *ANSWERED, COUNTDOWN, COUNTDOWN_3TO4, *SYNTHETIC)}
OTHERS = (".json", ".tsv", ".txt", ".xls", ".xlsx", ".ods", ".arrow")
"""How names of files end that are rows to their owner, but not a task."""


def task_names() -> list[str]:
    """The names that `get_task` knows, in alphabetical order."""
    return sorted([*_TASKS, KNOW])


def get_task(
    name: str,
    grader: str | None = None,
    columns: str | None = None,
    source: str | None = None,
    match: str | None = None,
) -> Task:
    """The task of this name.

    Args:
        name: of a task that comes with esft, the path of a file with one's own (`words.OWN`), or
            hub:ID[:config], a data set of the hub.
        grader: how answers to one's own rows are graded; None where the task knows itself.
        columns: what their columns are called, see `parse_columns`; None where as ours.
        source: of know alone, the name of the task whose rows it asks; None takes `KNOW_SOURCE`.
        match: of know alone, see `know_task`; None takes the first of `words.MATCHES`.

    Raises:
        UnknownTaskError: no task has this name; the hint has the nearest ones.
        TaskError: a file is not a task, or a grader is named for a task that has its own.
    """
    if name == KNOW:
        return _know(grader, columns, source, match)
    for option, given in (("source", source), ("match", match)):
        if given is not None:
            raise TaskError(
                f"task {name} has {option} {given!r}, expected none: that is for task {KNOW}",
                hint=f"leave {option} out, or take task {KNOW}",
            )
    if name.startswith(HUB):
        return hub_own_task(name, grader, columns)
    if is_file(name):
        return own_task(Path(os.path.expanduser(name)), grader, columns)
    kinds = f"{', '.join(OWN[:-1])} or {OWN[-1]}"
    if name not in _TASKS and Path(name).suffix.lower() in OTHERS:
        raise UnknownTaskError(
            f"{name} is not a file of rows that esft reads, expected a {kinds} file",
            hint=like_named(Path(name)) or "save the rows in one of these, such as CSV UTF-8",
        )
    if name not in _TASKS:
        plain = name.strip().lower().replace("_", "-")
        near = difflib.get_close_matches(plain, task_names(), n=3, cutoff=0.5)
        start = f"did you mean {' or '.join(near)}?" if near else "see esft tasks;"
        raise UnknownTaskError(
            f"task {name!r} is unknown, expected one of: {', '.join(task_names())}",
            hint=f"{start} a {kinds} file, or hub:ID, is a task of your own",
        )
    for option, given in (("grader", grader), ("columns", columns)):
        if given is not None:
            raise TaskError(
                f"task {name} has its own {option}, expected no other: {given!r} is for rows of "
                "your own",
                hint=f"leave --{option} out",
            )
    return _TASKS[name]


def _know(grader: str | None, columns: str | None, source: str | None, match: str | None) -> Task:
    named = KNOW_SOURCE if source is None else source
    if grader is not None or named == KNOW:
        given = f"grader {grader!r}" if named != KNOW else f"source {named!r}"
        raise TaskError(
            f"task {KNOW} has {given}, expected another task as its source, and no grader",
            hint="for example source=nq-open",
        )
    own = is_file(named) or named.startswith(HUB)
    # A grader that asks for answers to be found, of which know does not use more.
    asked = get_task(named, "contains" if own and not named.endswith(".py") else None, columns)
    return know_task(asked, KNOW if named == KNOW_SOURCE else f"{KNOW}-{asked.name}", match)


def data_folder(named: str | None, task: Task) -> Path | None:
    """The folder of a task's rows: the one named, or ESFT_DATA_DIR where they are on the hub."""
    if named is None and task.hub is not None:
        named = os.environ.get("ESFT_DATA_DIR")
    return Path(named) if named else None
