"""Two evaluations of the same rows, compared row by row."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from esft.stats.intervals import Interval, bootstrap_interval, mean_and_error


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What changed from one evaluation to another."""

    n: int
    """Rows."""
    difference: float
    """Mean after minus mean before."""
    se: float
    """Standard error of `difference` over rows; NaN for a single row."""
    interval: Interval
    """Bootstrap interval of `difference`."""
    gained: tuple[int, ...]
    """Places of the rows that are better after: wrong before and right after, for 0 and 1."""
    lost: tuple[int, ...]
    """Places of the rows that are worse after."""
    p_value: float
    """McNemar's exact test; the sign test for rewards."""


def compare(before: Sequence[float], after: Sequence[float], level: float = 0.95) -> Paired:
    """Return what changed from `before` to `after`.

    Args:
        before: correct (0 or 1) or reward, row by row.
        after: the same of the same rows, in the same order.
        level: of the interval.

    Raises:
        ValueError: if the numbers of rows differ, there is none, or a value is not finite.
    """
    changes = [float(new) - float(old) for old, new in zip(before, after, strict=True)]
    interval = bootstrap_interval(changes, level)
    difference, se = mean_and_error(changes)
    gained = tuple(place for place, change in enumerate(changes) if change > 0)
    lost = tuple(place for place, change in enumerate(changes) if change < 0)
    return Paired(
        n=len(changes),
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

    Args:
        before: correct (0 or 1) and reward, row by row.
        after: the same of the same rows, in the same order.
    """
    rows = (*before, *after)
    if all(right == reward for right, reward in rows):
        return None
    if not all(math.isfinite(reward) for _, reward in rows):
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
