"""The rows of a task, split so that train, holdout and test never overlap."""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from esft.errors import TaskError
from esft.tasks.folder import FolderRows
from esft.tasks.hub import HubRows
from esft.tasks.task import Row, Task

SHIPPED = Path(__file__).with_name("data")
"""The data folder that comes with esft."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The rows of a run."""

    train: tuple[Row, ...]
    holdout: tuple[Row, ...]


def read_split(task: Task, split: str, data_dir: Path | None = None) -> list[Row]:
    """All rows of one split, in the order of their source.

    Args:
        task: the task whose rows these are.
        split: "train", "validation" or "test".
        data_dir: folder with <task.file>.<split>.jsonl; None takes the rows that the task ships,
            or its hub dataset.

    Raises:
        TaskError: the rows cannot be had, or one of them is wrong; names file and line.
    """
    return list(_read(task, split, _source(task, data_dir)))


def split_rows(task: Task, train: int, holdout: int, data_dir: Path | None = None) -> Split:
    """The rows to tune on and the rows to measure on.

    Train rows are the first `train` of the train split. Holdout rows are the first `holdout` of
    the validation split, or, where the source has none, of what is left of the train split.

    Why they never overlap: of rows with equal `Row.key` only the first counts; a row that the
    test split has too is left out of both; a validation row that is anywhere in the train split
    is left out, so the holdout rows stay the same whatever `train` is.

    Args:
        task: the task whose rows these are.
        train: number of train rows, >= 1.
        holdout: number of holdout rows, >= 0.
        data_dir: as in `read_split`.

    Raises:
        TaskError: the rows cannot be had, one is wrong, or they are too few.
    """
    if train < 1 or holdout < 0:
        raise ValueError(f"{train} train and {holdout} holdout rows, expected >= 1 and >= 0")
    source = _source(task, data_dir)
    test = {row.key for row in _read(task, "test", source)} if source.has("test") else set()
    tunable = _distinct(_read(task, "train", source), test)
    if len(tunable) < train:
        raise _too_few(source, "train", "train", train, len(tunable))
    measured_on = "validation" if source.has("validation") else "train"
    if measured_on == "validation":
        known = test | {row.key for row in tunable}
        measurable = _distinct(_read(task, "validation", source), known)
    else:
        measurable = tunable[train:]
    if len(measurable) < holdout:
        raise _too_few(source, measured_on, "holdout", holdout, len(measurable))
    return Split(train=tuple(tunable[:train]), holdout=tuple(measurable[:holdout]))


def _source(task: Task, data_dir: Path | None) -> FolderRows | HubRows:
    if data_dir is not None:
        fix = (
            "leave --data-dir out to use the rows that ship with esft"
            if task.hub is None
            else f"leave --data-dir and ESFT_DATA_DIR out to use {task.hub} from the hub"
        )
        return FolderRows(folder=data_dir.expanduser(), file=task.file, fix=fix)
    if task.hub is not None:
        return HubRows(task.hub, task.file)
    return FolderRows(folder=SHIPPED, file=task.file, fix="install esft again")


def _read(task: Task, split: str, source: FolderRows | HubRows) -> Iterator[Row]:
    for where, raw in source.rows(split):
        try:
            yield task.read(raw)
        except TaskError as error:
            raise TaskError(
                f"{where}: {error}",
                hint=f"task {task.name} needs the columns of {task.source}; correct the row, "
                "or name another folder with --data-dir",
            ) from error


def _distinct(rows: Iterable[Row], without: Set[str]) -> list[Row]:
    """The first row of each key, none of those in `without`."""
    first: dict[str, Row] = {}
    for row in rows:
        if row.key not in without:
            first.setdefault(row.key, row)
    return list(first.values())


def _too_few(
    source: FolderRows | HubRows, split: str, part: str, asked: int, there: int
) -> TaskError:
    """The error of a split with fewer rows for `part` (train or holdout) than asked for."""
    shared = part == "holdout" and split == "train"
    left = " left after the train rows" if shared else ""
    fixes = [f"--set task.{part}={there}"] if there else ["add rows"]
    if shared:
        fixes.append("lower --set task.train=")
    if isinstance(source, FolderRows):
        fixes.append(source.fix)
    return TaskError(
        f"{source.where(split)}: {there} {part} rows{left}, not counting those that occur twice or "
        f"in another split; expected {asked} (task.{part})",
        hint=", or ".join(fixes),
    )
