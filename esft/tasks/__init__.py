"""The tasks that come with esft, by name."""

import difflib

from esft.errors import UnknownTaskError
from esft.tasks.arc import ARC, ARC_EASY
from esft.tasks.conciseness import CONCISENESS
from esft.tasks.task import Task

_TASKS = {task.name: task for task in (ARC, ARC_EASY, CONCISENESS)}


def task_names() -> list[str]:
    """The names that `get_task` knows, in alphabetical order."""
    return sorted(_TASKS)


def get_task(name: str) -> Task:
    """The task of this name.

    Raises:
        UnknownTaskError: no task has this name; the hint has the nearest ones.
    """
    if name in _TASKS:
        return _TASKS[name]
    plain = name.strip().lower().replace("_", "-")
    near = difflib.get_close_matches(plain, task_names(), n=3, cutoff=0.5)
    raise UnknownTaskError(
        f"task {name!r} is unknown, expected one of: {', '.join(task_names())}",
        hint=f"did you mean {' or '.join(near)}?" if near else None,
    )
