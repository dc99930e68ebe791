"""What a model made of rows: row by row, and the figures of them all, as JSON has them too."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from esft.stats.intervals import mean_and_error
from esft.tasks.task import Row


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What a model made of one row."""

    reward: float
    """NaN where the model overflowed."""
    correct: bool | None
    """None where it was not looked at: reward "logprob" needs no answer."""
    answers: tuple[str, ...] = ()
    """One a question: the text generated, or the option chosen; by scoring "exact" the likeliest
    token in each place of the reference. Empty where nothing was looked at."""
    correct_unnormalized: bool | None = None
    """For choice: right without dividing by the length of the options (acc)."""
    failure: str | None = None
    """Why the grader gave no reward, which counts as 0; None where it gave one."""

    def to_record(self) -> dict[str, object]:
        """Return the result as JSON has it; from_record reads it back."""
        return asdict(self) | {"reward": None if math.isnan(self.reward) else self.reward}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "RowResult":
        """Return the result that a record holds; what else stands in it is passed over.

        Raises:
            KeyError, TypeError, ValueError: if it holds none.
        """
        return cls(
            reward=number(record["reward"]),
            correct=record["correct"],
            answers=tuple(record["answers"]),
            correct_unnormalized=record["correct_unnormalized"],
            failure=record["failure"],
        )


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on at least one row; standard errors are those of the mean over rows."""

    results: tuple[RowResult, ...]
    """Row by row."""

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.results)

    @cached_property
    def _accuracies(self) -> tuple[float, float]:
        return mean_and_error([float(bool(result.correct)) for result in self.results])

    @cached_property
    def _rewards(self) -> tuple[float, float]:
        return mean_and_error([result.reward for result in self.results])

    @property
    def accuracy(self) -> float:
        """Share correct, 0 to 1; for choice by length-normalized log-probability (acc_norm)."""
        return self._accuracies[0]

    @property
    def accuracy_se(self) -> float:
        """Standard error of `accuracy`."""
        return self._accuracies[1]

    @property
    def reward(self) -> float:
        """Mean reward; NaN where the model overflowed."""
        return self._rewards[0]

    @property
    def reward_se(self) -> float:
        """Standard error of `reward`."""
        return self._rewards[1]

    @property
    def acc(self) -> float | None:
        """For choice: share right without dividing by the options' lengths."""
        plain = [result.correct_unnormalized for result in self.results]
        return None if None in plain else sum(plain) / len(plain)

    @property
    def grader_failures(self) -> int:
        """Rows to whose answers the grader gave no reward."""
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

    def row_records(self, rows: Sequence[Row]) -> list[dict[str, object]]:
        """Return one record a row, with the row's id and key; RowResult reads them back."""
        return [
            {"id": row.id, "key": row.key} | result.to_record()
            for row, result in zip(rows, self.results, strict=True)
        ]


def paired_change(
    before: Evaluation, after: Evaluation, figure: str = "reward"
) -> tuple[float, float]:
    """Return the mean change from `before` to `after` and its standard error, row by row.

    Args:
        before: on some rows.
        after: on the same rows in the same order.
        figure: "reward" or "correct".

    Raises:
        ValueError: if the numbers of rows differ.
    """
    changes = [
        float(getattr(new, figure)) - float(getattr(old, figure))
        for old, new in zip(before.results, after.results, strict=True)
    ]
    return mean_and_error(changes)


def mean_reward(results: Sequence[RowResult]) -> float:
    """Return the mean reward, summed in float64 in row order; NaN if any row overflowed."""
    total = 0.0
    for result in results:
        total += result.reward
    return total / len(results)


def number(value: float | None) -> float:
    """Return a figure read back: NaN where it was recorded as null."""
    return math.nan if value is None else value
