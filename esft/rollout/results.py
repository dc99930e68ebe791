"""What a model made of rows: row by row, and the figures of them all, as JSON has them too."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

from esft.rollout.typed import known
from esft.stats.intervals import mean_and_error
from esft.stats.kept import Kept
from esft.stats.knowing import (
    Estimate,
    Knowing,
    KnowingFigures,
    knowing_changes,
    knowing_figures,
    knowing_kept,
)


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
    cut: bool | None = None
    """Whether an answer was cut off at `max_new_tokens`; None where none was generated."""
    knowing: Knowing | None = None
    """Of task know, unless the model overflowed."""


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

    @cached_property
    def knowing(self) -> KnowingFigures | None:
        """Of task know; None of others."""
        rows = [(bool(one.correct), one.knowing) for one in self.results if one.knowing is not None]
        return knowing_figures(rows) if rows else None

    def figures(self) -> dict[str, object]:
        """Return the figures as a `StepScore` has them."""
        plain = [result.correct_unnormalized for result in self.results]
        chosen = None not in plain
        figures = {
            "accuracy": self.accuracy,
            "se": self.accuracy_se,
            "reward": self.reward,
            "reward_se": self.reward_se,
            "acc": sum(plain) / len(plain) if chosen else None,
            "acc_norm": self.accuracy if chosen else None,
        }
        failures = sum(result.failure is not None for result in self.results)
        about = {"n": self.n, "grader_failures": failures, "knowing": self.knowing}
        return about | {name: known(figure) for name, figure in figures.items()}


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


def knowing_change(
    before: Sequence[RowResult], after: Sequence[RowResult]
) -> dict[str, Estimate] | None:
    """Return what changed in the measures of task know, row by row; None of other tasks."""
    both = _known_rows(before, after)
    return knowing_changes(*both) if both else None


def d_prime_kept(
    before: Sequence[RowResult], whole: Sequence[RowResult], part: Sequence[RowResult]
) -> Kept | None:
    """Return what share of the change in d' from `before` to `whole` that to `part` is; None of
    other tasks than know, and as `knowing_kept`."""
    all_three = _known_rows(before, whole, part)
    return knowing_kept(*all_three) if all_three else None


def _known_rows(*models: Sequence[RowResult]) -> list[tuple[tuple[bool, Knowing], ...]]:
    """Return, for each model, the rows of which all say what they know; none of other tasks."""
    rows = [
        tuple((bool(one.correct), one.knowing) for one in row)
        for row in zip(*models, strict=True)
        if None not in [one.knowing for one in row]
    ]
    return list(zip(*rows, strict=True))


def cut_share(results: Sequence[RowResult]) -> float | None:
    """Return the share of rows whose answers were cut off; None where none were generated."""
    told = [result.cut for result in results if result.cut is not None]
    return sum(told) / len(told) if told else None


def mean_reward(results: Sequence[RowResult]) -> float:
    """Return the mean reward, summed in float64 in row order; NaN if any row overflowed."""
    # Not by sum(), which rounds otherwise from Python 3.12 on.
    return reduce(add, (result.reward for result in results), 0.0) / len(results)


def kept_right(
    members: Sequence[Sequence[RowResult]], base: Sequence[RowResult]
) -> tuple[float, float] | None:
    """Return the share right, mean over members, of the rows that the base answers right, and its
    standard error over these rows; None where they are fewer than four, or not looked at.

    A reward may rise while answers go: that of short answers, say.
    """
    right = [row for row, result in enumerate(base) if result.correct]
    if len(right) < 4:
        return None
    return mean_and_error(
        [sum(bool(one[row].correct) for one in members) / len(members) for row in right]
    )
