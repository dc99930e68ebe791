"""Answers to which a grader gave no score, over a run."""

import reprlib

from esft.rollout.encode import EncodedRows
from esft.rollout.results import RowResult
from esft.tuning.watcher import Watcher


class Failures:
    """Counts them and shows the first.

    Args:
        watcher: told of the first.
        count: those of the run before it was resumed.
    """

    def __init__(self, watcher: Watcher, count: int = 0) -> None:
        self._watcher = watcher
        self.count = count

    def add(self, where: str, rows: EncodedRows, results: list[RowResult]) -> None:
        """Count the failures among the results of `rows`."""
        failed = [i for i, result in enumerate(results) if result.failure is not None]
        if failed and not self.count:
            row, result = rows.rows[failed[0]], results[failed[0]]
            self._watcher.notice(
                f"{where}: the grader gave no score for row {row.id}: {result.failure}; the "
                f"answer was {reprlib.repr(result.answer)}. It counts as 0, as will others, which "
                "are counted and not shown"
            )
        self.count += len(failed)
