"""The rows of a task, split so that train, holdout and test never overlap."""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from esft.errors import TaskError
from esft.tasks.folder import FolderRows
from esft.tasks.hub import HubRows
from esft.tasks.task import Row, RowSource, Task

SHIPPED = Path(__file__).with_name("data")
"""The data folder that comes with esft."""
DEFAULT = 200
"""Train rows, and holdout rows, where nothing else is asked for and there are as many."""


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
        data_dir: folder with <task.file>.<split>.jsonl; None takes the task's own rows, or its
            hub dataset.

    Raises:
        TaskError: the rows cannot be had, or one of them is wrong; names file and line.
    """
    return list(_read(task, split, row_source(task, data_dir)))


def split_rows(
    task: Task, train: int | None, holdout: int | None, data_dir: Path | None = None
) -> Split:
    """The rows to tune on and the rows to measure on.

    Train rows are the first `train` of the train split. Holdout rows are the first `holdout` of
    the validation split, or, where the source has none, of what is left of the train split.

    Why they never overlap: of rows with equal `Row.key` only the first counts; a row that the
    test split has too is left out of both; a validation row that is anywhere in the train split
    is left out, so the holdout rows stay the same whatever `train` is.

    Args:
        task: the task whose rows these are.
        train: number of train rows, >= 1; None takes 200, or all where there are fewer (half of
            them where the holdout rows come from the same split).
        holdout: number of holdout rows, >= 0; None takes 200, or all that are left.
        data_dir: as in `read_split`.

    Raises:
        TaskError: the rows cannot be had, one is wrong, or they are too few.
    """
    if (train is not None and train < 1) or (holdout is not None and holdout < 0):
        raise ValueError(f"{train} train and {holdout} holdout rows, expected >= 1 and >= 0")
    source = row_source(task, data_dir)
    has = {split: name is not None and source.has(name) for split, name in _names(task).items()}
    test = {row.key for row in _read(task, "test", source)} if has["test"] else set()
    tunable = _distinct(_read(task, "train", source), test)
    train = _train_count(len(tunable), train, holdout, shared=not has["validation"])
    if len(tunable) < train:
        raise _too_few(task, source, "train", "train", train, len(tunable))
    measured_on = "validation" if has["validation"] else "train"
    if measured_on == "validation":
        known = test | {row.key for row in tunable}
        measurable = _distinct(_read(task, "validation", source), known)
    else:
        measurable = tunable[train:]
    if holdout is None:
        # At least one, so that a run without any says how to get them.
        holdout = max(1, min(DEFAULT, len(measurable)))
    if len(measurable) < holdout:
        raise _too_few(task, source, measured_on, "holdout", holdout, len(measurable))
    return Split(train=tuple(tunable[:train]), holdout=tuple(measurable[:holdout]))


def _train_count(there: int, train: int | None, holdout: int | None, *, shared: bool) -> int:
    """How many train rows to take of those `there` are."""
    if train is not None:
        return train
    left = there
    if shared:
        left -= min(DEFAULT, there // 2) if holdout is None else holdout
    return max(1, min(DEFAULT, left))


def row_source(task: Task, data_dir: Path | None = None) -> RowSource:
    """Where a task's rows come from: the folder, else its own, the hub, or what esft ships."""
    if data_dir is not None:
        which = "--data-dir" if task.hub is None else "--data-dir and ESFT_DATA_DIR"
        fix = f"leave {which} out to use {_without_folder(task)}"
        return FolderRows(folder=data_dir.expanduser(), file=task.file, fix=fix)
    if task.make_source is not None:
        return task.make_source()
    if task.hub is not None:
        return HubRows(task.hub, task.file)
    return FolderRows(folder=SHIPPED, file=task.file, fix="install esft again")


def _without_folder(task: Task) -> str:
    if task.hub is not None:
        return f"{task.hub} from the hub"
    return "the rows that ship with esft" if task.make_source is None else "the task's own rows"


def _names(task: Task) -> dict[str, str | None]:
    return {split: task.splits.get(split) for split in ("train", "validation", "test")}


def _read(task: Task, split: str, source: RowSource) -> Iterator[Row]:
    name = task.splits.get(split)
    if name is None:
        raise TaskError(
            f"task {task.name} has no {split} rows with answers, it has: {', '.join(task.splits)}"
        )
    for where, raw in source.rows(name):
        try:
            yield task.read(raw)
        except TaskError as error:
            raise TaskError(
                f"{where}: {error}",
                hint=f"correct the row, or {source.fix}{_form(task)}",
            ) from error


def _form(task: Task) -> str:
    return "" if task.hub is None else f"; {task.name} reads rows of the form of {task.hub}"


def _distinct(rows: Iterable[Row], without: Set[str]) -> list[Row]:
    """The first row of each key, none of those in `without`."""
    first: dict[str, Row] = {}
    for row in rows:
        if row.key not in without:
            first.setdefault(row.key, row)
    return list(first.values())


def _too_few(
    task: Task, source: RowSource, split: str, part: str, asked: int, there: int
) -> TaskError:
    """The error of a split with fewer rows for `part` (train or holdout) than asked for."""
    shared = part == "holdout" and split == "train"
    left = " left after the train rows" if shared else ""
    fixes = [f"--set task.{part}={there}"] if there else ["add rows"]
    if shared:
        fixes.append("lower --set task.train=")
    return TaskError(
        f"{source.where(task.splits[split])}: {there} {part} rows{left}, not counting those that "
        f"occur twice or in another split; expected {asked} (task.{part})",
        hint=", or ".join([*fixes, source.fix]),
    )
