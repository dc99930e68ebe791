"""Which task a user's own file is."""

from pathlib import Path

from esft.errors import TaskError
from esft.tasks.own_jsonl import own_jsonl
from esft.tasks.own_program import own_program
from esft.tasks.task import Task


def own_task(path: Path, grader: str | None) -> Task:
    """The task in a .jsonl file, graded by `grader`, or in a .py file, which grades itself.

    Raises:
        TaskError: the file is neither, or cannot be used; a program that fails does so later,
            when it is first needed.
    """
    path = path.expanduser()
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return own_jsonl(path, grader)
    if kind != ".py":
        raise TaskError(f"{path} is no task, expected a .jsonl or a .py file")
    if grader is not None:
        raise TaskError(
            f"{path} has grader {grader!r}, expected none: a program grades with its reward()",
            hint="leave --grader out",
        )
    return own_program(path)
