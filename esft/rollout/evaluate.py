"""Evaluations: a task on the model as it is, with errors."""

from typing import Protocol

from esft.rollout.encode import EncodedRows
from esft.rollout.results import Evaluation, RowResult, evaluation_of
from esft.rollout.rollout import Rollout

PART = 64
"""Rows scored between two notes of them, at least: what an interruption loses at most."""


class Memory(Protocol):
    """Keeps the results of an evaluation, so that nothing is scored twice."""

    def known(self) -> list[RowResult]:
        """Return the results of the first rows, as far as they are known."""

    def add(self, results: list[RowResult]) -> None:
        """Keep the results of the next rows."""


def evaluate(rollout: Rollout, encoded: EncodedRows, memory: Memory | None = None) -> Evaluation:
    """Score `encoded` rows on the model as it is, in parts that are always the same.

    Args:
        rollout: scores the rows that `memory` does not know.
        encoded: any number of rows.
        memory: of this evaluation; an interrupted one goes on from what it knows.
    """
    total = len(encoded.rows)
    results = [] if memory is None else memory.known()[:total]
    part = max(PART, rollout.batches.size)
    while len(results) < total:
        # Up to the next multiple, so that batches are made up alike whatever was known.
        stop = min(total, (len(results) // part + 1) * part)
        found = rollout.evaluate(encoded.take(list(range(len(results), stop))))
        results += found
        if memory is not None:
            memory.add(found)
    return evaluation_of(results, rollout.scoring)
