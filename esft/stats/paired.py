"""Two evaluations of the same rows, compared row by row."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from esft.stats.intervals import Interval, bootstrap_interval, mean_and_error


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What changed from one evaluation to another, in the mean over rows."""

    difference: float
    """After minus before."""
    se: float
    """Of `difference` over rows; NaN for a single row."""
    interval: Interval
    """At 95 %."""
    gained: tuple[int, ...]
    """Positions of the rows that are better after: wrong before and right after, for 0 and 1."""
    lost: tuple[int, ...]
    p_value: float
    """McNemar's exact test; the sign test for rewards."""


def compare(before: Sequence[float], after: Sequence[float]) -> Paired:
    """Return what changed in correct (0 or 1) or reward, both of the same rows in one order.

    Raises:
        ValueError: if the numbers of rows differ, there is none, or a value is not finite.
    """
    changes = [float(new) - float(old) for old, new in zip(before, after, strict=True)]
    interval = bootstrap_interval(changes)  # first: it refuses what has no mean
    difference, se = mean_and_error(changes)
    gained = tuple(row for row, change in enumerate(changes) if change > 0)
    lost = tuple(row for row, change in enumerate(changes) if change < 0)
    return Paired(
        difference=difference,
        se=se,
        interval=interval,
        gained=gained,
        lost=lost,
        p_value=mcnemar(len(gained), len(lost)),
    )


def compare_rewards(
    before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]]
) -> Paired | None:
    """Return what changed in rewards; None where they only say right or wrong, or overflowed.

    A row has correct (0 or 1) and reward; both evaluations have the same rows in one order.
    """
    rows = (*before, *after)
    repeated = all(right == reward for right, reward in rows)
    if repeated or not all(math.isfinite(reward) for _, reward in rows):
        return None
    return compare([reward for _, reward in before], [reward for _, reward in after])


def mcnemar(gained: int, lost: int) -> float:
    """Return McNemar's exact two-sided p-value: as many rows changed, each way as likely.

    Twice the chance of so few or fewer on the rarer side, at most 1; 1 where no row changed.

    Source: McNemar, 1947, with the binomial law in place of chi-squared.
    """
    changed = gained + lost
    ways = term = 1
    for taken in range(min(gained, lost)):
        term = term * (changed - taken) // (taken + 1)
        ways += term
    return min(1.0, 2 * ways / 2**changed)  # whole numbers: exact up to the division
