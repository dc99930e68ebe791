"""A user's own rows, all in one list, as the splits that their split column says."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from esft.errors import TaskError
from esft.tasks.own_columns import SPLITS, split_of

Placed = tuple[str, dict[str, Any]]
"""A row with its place, for messages."""


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """Rows in the order of their source, split by split.

    Args:
        name: the file or program, for messages.
        splits: the rows of each split that there is.
        fix: what to do about rows that are missing or wrong, the end of each hint.
    """

    name: str
    splits: dict[str, list[Placed]]
    fix: str

    def where(self, split: str) -> str:
        """File or program and split, for messages."""
        return f"{self.name}, split {split}"

    def has(self, split: str) -> bool:
        """Whether a row is of this split."""
        return split in self.splits

    def rows(self, split: str) -> Iterator[Placed]:
        """Place and object of each row.

        Raises:
            TaskError: no row is of this split.
        """
        if not self.has(split):
            raise TaskError(
                f"{self.name} has no {split} rows, it has: {', '.join(self.splits) or 'none'}",
                hint=f'write "split": "{split}" into some rows, or {self.fix}',
            )
        yield from self.splits[split]

    @property
    def size(self) -> str:
        """How many rows there are, in words."""
        return ", ".join(f"{len(rows):,} {split}" for split, rows in self.splits.items())


def own_rows(name: str, placed: Iterable[Placed], fix: str) -> OwnRows:
    """The rows by their split column; all are train rows where no row has one.

    Raises:
        TaskError: a split is none of train, validation and test, or only some rows have one.
    """
    rows = list(placed)
    splits = list(_splits(rows, fix))
    if not any(splits):
        return OwnRows(name=name, splits={"train": rows}, fix=fix)
    if not all(splits):
        bare, other = rows[splits.index(None)], rows[_first(splits)]
        raise TaskError(
            f"{bare[0]} has no split, but {other[0]} has one; expected one in all rows or in none",
            hint=f'write "split": "train" into that row, or {fix}',
        )
    by_split = {split: [] for split in SPLITS if split in splits}
    for split, row in zip(splits, rows, strict=True):
        by_split[split].append(row)
    return OwnRows(name=name, splits=by_split, fix=fix)


def _splits(rows: Sequence[Placed], fix: str) -> Iterator[str | None]:
    for where, raw in rows:
        try:
            yield split_of(raw)
        except TaskError as error:
            raise TaskError(f"{where}: {error}", hint=f"correct the row, or {fix}") from error


def _first(values: Sequence[str | None]) -> int:
    return next(index for index, value in enumerate(values) if value is not None)
