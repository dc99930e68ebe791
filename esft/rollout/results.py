"""What a model made of rows: row by row, and the figures of them all, as JSON has them too."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, reduce
from operator import add
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
        return asdict(self) | {"reward": None if math.isnan(self.reward) else self.reward}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "RowResult":
        """Return what `to_record` gave; what else stands in the record is passed over."""
        values = {field.name: record[field.name] for field in fields(cls)}
        read = {"reward": number(record["reward"]), "answers": tuple(record["answers"])}
        return cls(**values | read)


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on at least one row; standard errors are those of the mean over rows."""

    results: tuple[RowResult, ...]

    @property
    def n(self) -> int:
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
        return self._accuracies[1]

    @property
    def reward(self) -> float:
        """Mean reward; NaN where the model overflowed."""
        return self._rewards[0]

    @property
    def reward_se(self) -> float:
        return self._rewards[1]

    def summary(self) -> dict[str, object]:
        """Return the figures as evals.jsonl has them."""
        figures: dict[str, object] = {
            "n": self.n,
            "accuracy": self.accuracy,
            "se": self.accuracy_se,
            "reward": self.reward,
            "reward_se": self.reward_se,
        }
        failures = sum(result.failure is not None for result in self.results)
        if failures:
            figures["grader_failures"] = failures
        plain = [result.correct_unnormalized for result in self.results]
        if None not in plain:
            figures |= {"acc": sum(plain) / len(plain), "acc_norm": self.accuracy}
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
    """Return the mean change and its standard error, row by row of the same rows.

    `figure` is "reward" or "correct". ValueError if the numbers of rows differ.
    """
    changes = [
        float(getattr(new, figure)) - float(getattr(old, figure))
        for old, new in zip(before.results, after.results, strict=True)
    ]
    return mean_and_error(changes)


def mean_reward(results: Sequence[RowResult]) -> float:
    """Return the mean reward, summed in float64 in row order; NaN if any row overflowed."""
    # Not by sum(), which rounds otherwise from Python 3.12 on.
    return reduce(add, (result.reward for result in results), 0.0) / len(results)


def number(value: float | None) -> float:
    """Return a figure read back: NaN where it was recorded as null."""
    return math.nan if value is None else value
