"""Evaluations: a task on the model as it is, with errors."""

import math
from dataclasses import dataclass
from typing import Protocol

from esft.rollout.prepared import Prepared
from esft.rollout.rollout import Rollout, RowResult

PART = 64
"""Rows scored between two notes of them, at least: what an interruption loses at most."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model scores on some rows; standard errors are those of the mean over rows."""

    n: int
    """Rows."""
    accuracy: float
    """Share correct, 0 to 1; for choice by length-normalized log-probability (acc_norm)."""
    accuracy_se: float
    reward: float
    """Mean reward; NaN where the model overflowed."""
    reward_se: float
    acc: float | None
    """For choice: share right without dividing by the options' lengths."""
    results: tuple[RowResult, ...]
    """Row by row."""

    @property
    def grader_failures(self) -> int:
        """Rows to whose answer the grader gave no score."""
        return sum(result.failure is not None for result in self.results)

    def summary(self) -> dict[str, object]:
        """Return the figures as evals.jsonl has them."""
        figures: dict[str, object] = {
            "n": self.n,
            "accuracy": self.accuracy,
            "se": self.accuracy_se,
            "reward": self.reward,
            "reward_se": self.reward_se,
        }
        if self.grader_failures:
            figures["grader_failures"] = self.grader_failures
        if self.acc is not None:
            figures |= {"acc": self.acc, "acc_norm": self.accuracy}
        return figures

    def rows(self, prepared: Prepared) -> list[dict[str, object]]:
        """Return one record a row, with the row's id and key."""
        return [
            {
                "id": row.id,
                "key": row.key,
                "reward": result.reward,
                "correct": result.correct,
                "correct_unnormalized": result.correct_unnormalized,
                "answer": result.answer,
                "failure": result.failure,
            }
            for row, result in zip(prepared.rows, self.results, strict=True)
        ]


class Memory(Protocol):
    """Keeps the results of an evaluation, so that nothing is scored twice."""

    def known(self) -> list[RowResult]:
        """Return the results of the first rows, as far as they are known."""

    def add(self, results: list[RowResult]) -> None:
        """Keep the results of the next rows."""


def evaluate(rollout: Rollout, prepared: Prepared, memory: Memory | None = None) -> Evaluation:
    """Score `prepared` rows on the model as it is, in parts that are always the same.

    Args:
        rollout: scores the rows that `memory` does not know.
        prepared: any number of rows.
        memory: of this evaluation; an interrupted one goes on from what it knows.
    """
    total = len(prepared.rows)
    results = [] if memory is None else memory.known()[:total]
    part = max(PART, rollout.batches.size)
    while len(results) < total:
        # Up to the next multiple, so that batches are made up alike whatever was known.
        stop = min(total, (len(results) // part + 1) * part)
        found = rollout.measure(prepared.take(list(range(len(results), stop))))
        results += found
        if memory is not None:
            memory.add(found)
    return evaluation_of(results, rollout.scoring)


def evaluation_of(results: list[RowResult], scoring: str) -> Evaluation:
    """Return the figures of results, one or more of them."""
    accuracy, accuracy_se = mean_and_error([float(result.correct) for result in results])
    reward, reward_se = mean_and_error([result.reward for result in results])
    acc = None
    if scoring == "choice":
        acc = sum(bool(result.correct_unnormalized) for result in results) / len(results)
    return Evaluation(
        n=len(results),
        accuracy=accuracy,
        accuracy_se=accuracy_se,
        reward=reward,
        reward_se=reward_se,
        acc=acc,
        results=tuple(results),
    )


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Return the mean and its standard error (ddof 1); the error of a single value is NaN."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def paired_change(
    before: Evaluation, after: Evaluation, what: str = "reward"
) -> tuple[float, float]:
    """Return the mean change from `before` to `after` and its standard error, row by row.

    Args:
        before: on some rows.
        after: on the same rows in the same order.
        what: "reward" or "correct".

    Raises:
        ValueError: if the numbers of rows differ.
    """
    changes = [
        float(getattr(new, what)) - float(getattr(old, what))
        for old, new in zip(before.results, after.results, strict=True)
    ]
    return mean_and_error(changes)
