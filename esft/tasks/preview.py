"""The first rows of a task, to look at before a model does."""

from dataclasses import dataclass
from pathlib import Path

from esft.errors import TaskError
from esft.tasks.rows import read_split, row_source
from esft.tasks.task import Row, Task


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Some rows of one split."""

    where: str
    """The file, dataset or program they come from."""
    split: str
    """"train", "validation" or "test"."""
    total: int
    """Rows in that split."""
    rows: tuple[Row, ...]


def preview(task: Task, data_dir: Path | None = None, count: int = 2) -> Preview:
    """The first `count` rows of the first split there is: train, else validation, else test.

    Reads the whole split, so that a wrong row is found here and not in a run.

    Raises:
        TaskError: the rows cannot be had, or one of them is wrong.
    """
    source = row_source(task, data_dir)
    for split, name in task.splits.items():
        if source.has(name):
            rows = read_split(task, split, data_dir)
            return Preview(
                where=source.where(name), split=split, total=len(rows), rows=tuple(rows[:count])
            )
    first = next(iter(task.splits.values()))
    raise TaskError(
        f"{source.where(first)} is not there, nor another split of {task.name}", hint=source.fix
    )
