"""The rows of a task, split so that train, holdout and test never overlap."""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path

from esft.errors import TaskError
from esft.tasks.sources import RowSource, folder_rows
from esft.tasks.task import Row, Task

SHIPPED = Path(__file__).with_name("data")
DEFAULT = 200  # train rows, and holdout rows, where nothing else is asked for


@dataclass(frozen=True, kw_only=True)
class Split:
    """The rows of a run."""

    train: tuple[Row, ...]
    holdout: tuple[Row, ...]
    left_out: tuple[int, int] = (0, 0)
    """Train and validation rows that are neither: they ask what a row before them asks, or one of
    a split that comes before theirs."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The first two rows of a split."""

    where: str
    split: str
    total: int
    rows: tuple[Row, ...]


def read_split(task: Task, split: str, data_dir: Path | None = None) -> list[Row]:
    """All rows of one split, in the order of their source.

    Args:
        data_dir: folder with <task.file>.<split>.jsonl; None takes the task's own rows, or its
            hub dataset.

    Raises:
        TaskError: the rows are not found, or one of them is wrong; names file and line.
    """
    return list(_read(task, split, row_source(task, data_dir)))


def preview(task: Task, data_dir: Path | None = None) -> Preview:
    """Two rows of the first split there is, all of whose rows are read and so checked."""
    source = row_source(task, data_dir)
    there = [split for split, name in task.splits.items() if source.has(name)]
    split = next(iter(there or task.splits))
    rows = tuple(_read(task, split, source))
    where = source.where(task.splits[split])
    return Preview(where=where, split=split, total=len(rows), rows=rows[:2])


def split_rows(
    task: Task, train: int | None, holdout: int | None, data_dir: Path | None = None
) -> Split:
    """The rows to tune on and the rows to measure on.

    Train rows are the first `train` of the train split, by `first_rows`. Holdout rows are the first
    `holdout` of the validation split, or, where the source has none, of what is left of the train
    split.

    Why they never overlap: of rows with equal `Row.key` only the first counts; a row that the
    test split has too is left out of both; a validation row that is anywhere in the train split
    is left out, so the holdout rows stay the same whatever `train` is.

    Args:
        train: number of train rows, >= 1; None takes 200, or all where there are fewer (half of
            them where the holdout rows come from the same split).
        holdout: number of holdout rows, >= 0; None takes 200, or all that are left.
        data_dir: as in `read_split`.

    Raises:
        TaskError: the rows are not found, one is wrong, or they are too few.
    """
    if (train is not None and train < 1) or (holdout is not None and holdout < 0):
        raise ValueError(f"{train} train and {holdout} holdout rows, expected >= 1 and >= 0")
    source = row_source(task, data_dir)
    has_test, has_validation = (
        source.has(task.splits.get(split, "")) for split in ("test", "validation")
    )
    test = {row.key for row in _read(task, "test", source)} if has_test else set()
    tunable, left_out = _distinct(task, "train", source, test)
    if train is None:
        left = len(tunable)
        if not has_validation:
            left -= min(DEFAULT, left // 2) if holdout is None else holdout
        train = max(1, min(DEFAULT, left))
    if len(tunable) < train:
        raise _too_few(task, source, "train", train, len(tunable))
    measurable, left_out_too = tunable[train:], 0
    if has_validation:
        known = test | {row.key for row in tunable}
        measurable, left_out_too = _distinct(task, "validation", source, known)
    if holdout is None:
        # At least one, so that a run without any says how to get them.
        holdout = max(1, min(DEFAULT, len(measurable)))
    if len(measurable) < holdout:
        raise _too_few(task, source, "holdout", holdout, len(measurable), not has_validation)
    return Split(
        train=tuple(tunable[:train]),
        holdout=tuple(measurable[:holdout]),
        left_out=(left_out, left_out_too),
    )


def first_rows(rows: Iterable[Row], source: RowSource) -> list[Row]:
    """Rows in the order in which the first are taken: by `Row.key`, not by place in the file.

    Benchmarks are sorted: the first 200 of MMLU are 11 of its 57 subjects. Rows that stand in
    random order already stay in it.
    """
    return list(rows) if source.shuffled else sorted(rows, key=lambda row: row.key)


def row_source(task: Task, data_dir: Path | None = None) -> RowSource:
    """Where a task's rows come from: the folder, else the hub, its own, or what esft ships."""
    if data_dir is not None:
        which, other = "--data-dir", task.source
        if task.hub is not None:
            which, other = "--data-dir and ESFT_DATA_DIR", f"{task.hub} from the hub"
        fix = f"leave {which} out to use {other}"
        return folder_rows(data_dir.expanduser(), task.file, fix)
    if task.make_source is not None:
        return task.make_source()
    return replace(folder_rows(SHIPPED, task.file, "install esft again"), shuffled=True)


def _read(task: Task, split: str, source: RowSource) -> Iterator[Row]:
    if split not in task.splits:
        raise TaskError(
            f"task {task.name} has no {split} rows with answers, it has: {', '.join(task.splits)}"
        )
    for where, raw in source.rows(task.splits[split]):
        try:
            yield task.read(raw)
        except TaskError as error:
            form = "" if task.hub is None else f"; {task.name} reads rows of the form of {task.hub}"
            hint = error.hint or f"correct the row, or {source.fix}{form}"
            raise TaskError(f"{where}: {error}", hint=hint) from error


def _distinct(
    task: Task, split: str, source: RowSource, without: Set[str]
) -> tuple[list[Row], int]:
    """One row of each key, none of those in `without`, as `first_rows` has them; and how many
    rows of the split are not among them."""
    rows, first = list(_read(task, split, source)), {}
    for row in rows:
        if row.key not in without:
            first.setdefault(row.key, row)
    return first_rows(first.values(), source), len(rows) - len(first)


def _too_few(
    task: Task, source: RowSource, part: str, asked: int, there: int, shared: bool = False
) -> TaskError:
    where = source.where(task.splits["train" if part == "train" or shared else "validation"])
    left = " left after the train rows" if shared else ""
    fixes = [f"--set task.{part}={there}" if there else "add rows"]
    fixes += ["lower --set task.train="] * shared
    return TaskError(
        f"{where}: {there} {part} rows{left}, not counting those that occur twice or in another "
        f"split; expected {asked} (task.{part})",
        hint=", or ".join([*fixes, source.fix]),
    )
