"""What a model made of rows: row by row, and the figures of them all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from esft.stats.intervals import mean_and_error
from esft.tasks.task import Row


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What a model made of one row."""

    reward: float
    """NaN where the model overflowed."""
    correct: bool | None
    """None where it was not looked at: reward "logprob" needs no answer."""
    answer: str
    """The text generated, or the option chosen; by scoring "exact" the likeliest token in each
    place of the reference. Empty where nothing was looked at."""
    correct_unnormalized: bool | None = None
    """For choice: right without dividing by the length of the options (acc)."""
    failure: str | None = None
    """Why the grader gave no score, which counts as 0; None where it gave one."""


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

    def rows(self, rows: Sequence[Row]) -> list[dict[str, object]]:
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
            for row, result in zip(rows, self.results, strict=True)
        ]


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


def mean_reward(results: list[RowResult]) -> float:
    """Return the mean reward, summed in float64 in row order; NaN if any row overflowed."""
    total = 0.0
    for result in results:
        total += result.reward
    return total / len(results)


def result_of(row: dict) -> RowResult:
    """Return what a line of rows says a model made of a row."""
    return RowResult(
        reward=number(row["reward"]),
        correct=row["correct"],
        answer=row["answer"],
        correct_unnormalized=row.get("correct_unnormalized"),
        failure=row.get("failure"),
    )


def number(value: float | None) -> float:
    """Return a figure read back: NaN where it was recorded as null."""
    return math.nan if value is None else value
