"""Whether a tuned model still learns as its base does: two learning curves, compared row by row.

A **gain** is the last evaluation minus that before the first step. The verdict is on the tuned
model's gain minus the base's, with an interval at 95 %; the first of these that holds:

1. The base's gain is not larger than the margin and above 0 by its interval: *base learned
   nothing*. Then nothing tells what the tuned model lost; not either where the base knows the task.
2. The interval lies above minus the margin, but that of its last evaluation minus the base's below
   it: *behind*. It learns as much, but had forgotten, or lost, what it begins with; whether it gets
   as far, more steps would tell.
3. The interval lies above minus the margin: *kept*.
4. The tuned model begins higher, and the interval of its last evaluation minus the base's lies
   above minus the margin: *kept*, too. It had less to learn.
5. The interval lies below 0, and the difference is larger than the margin: *reduced*.
6. *Not enough* rows, or seeds.

Each claim is wrong by chance in 2.5 % of cases, so a verdict in 5 % at most.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from esft.stats.intervals import Interval, crossed_interval, crossed_variances

_NEAREST = 0.25  # of the margin, as in `verdict`
_WIDE = 2.2  # standard errors to either side, of some ten seeds

PlasticityKind = Literal["kept", "behind", "reduced", "not enough", "base learned nothing"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds and rows."""

    mean: float
    interval: Interval
    """At 95 %, over seeds and rows; over rows alone where there is one seed."""


@dataclass(frozen=True, kw_only=True)
class CurvePair:
    """Learning curves of two models on the same rows, with the same seeds."""

    steps: tuple[int, ...]
    base: tuple[float, ...]
    """Mean at each of the steps."""
    tuned: tuple[float, ...]
    differences: tuple[Estimate, ...]
    """Tuned minus base at each."""
    base_gain: Estimate
    tuned_gain: Estimate
    gain: Estimate
    """Tuned minus base."""
    mean_gain: Estimate
    """Likewise, of the mean gain over all evaluations after the first: how soon it learns."""
    seeds: int
    rows: int
    variances: tuple[float, float]
    """Of `gain`: over rows, and over seeds."""


@dataclass(frozen=True, kw_only=True)
class PlasticityVerdict:
    """What tuning did to the ability to learn; "points" of a reward are hundredths."""

    kind: PlasticityKind
    text: str


def curve_pair(steps: Sequence[int], base: np.ndarray, tuned: np.ndarray) -> CurvePair:
    """Return two curves compared, of scores (seeds, steps, rows).

    Raises:
        ValueError: if their shapes differ, there are fewer than two steps, or a score is not
            finite.
    """
    if base.shape != tuned.shape or base.shape[1] != len(steps) or len(steps) < 2:
        shapes = f"{base.shape} and {tuned.shape}"
        raise ValueError(f"scores of {shapes}, expected both (seeds, {len(steps)}, rows)")
    apart, gains = tuned - base, [scores - scores[:, :1] for scores in (base, tuned)]
    more = gains[1] - gains[0]
    seeds, _, rows = base.shape
    last = more[:, -1]
    return CurvePair(
        steps=tuple(steps),
        base=tuple(base.mean(axis=(0, 2)).tolist()),
        tuned=tuple(tuned.mean(axis=(0, 2)).tolist()),
        differences=tuple(_estimate(apart[:, at]) for at in range(len(steps))),
        base_gain=_estimate(gains[0][:, -1]),
        tuned_gain=_estimate(gains[1][:, -1]),
        gain=_estimate(last),
        mean_gain=_estimate(more[:, 1:].mean(axis=1)),
        seeds=seeds,
        rows=rows,
        variances=crossed_variances(last),
    )


def _estimate(values: np.ndarray) -> Estimate:
    return Estimate(mean=float(values.mean()), interval=crossed_interval(values))


def judge(pair: CurvePair, margin: float) -> PlasticityVerdict:
    """Return the verdict by the rules of this module."""
    gain, begin, end = pair.gain, pair.differences[0], pair.differences[-1]
    if not (pair.base_gain.mean > margin and pair.base_gain.interval.low > 0):
        text = f"it gains {_points(pair.base_gain)}, so what the tuned model gains, "
        text += f"{_points(pair.tuned_gain)}, tells nothing; take more steps, or a task it learns"
        return PlasticityVerdict(kind="base learned nothing", text=text)
    text = f"gains {100 * pair.tuned_gain.mean:+.1f} points where the base gains "
    text += f"{100 * pair.base_gain.mean:+.1f}: {_points(gain)}"
    ends = f"begins {_points(begin)} and ends {_points(end)} from the base"
    if gain.interval.low > -margin:
        if end.interval.high < -margin:
            return PlasticityVerdict(kind="behind", text=f"{text}; but it {ends}")
        return PlasticityVerdict(kind="kept", text=text)
    if begin.interval.low > 0 and end.interval.low > -margin:
        return PlasticityVerdict(kind="kept", text=f"{text}; but it {ends}")
    if gain.interval.high < 0 and gain.mean < -margin:
        return PlasticityVerdict(kind="reduced", text=f"{text}; it {ends}")
    return PlasticityVerdict(kind="not enough", text=f"{text}; {_needed(pair, margin)}")


def _needed(pair: CurvePair, margin: float) -> str:
    """Return how many rows or seeds would tell, whichever makes more of the uncertainty."""
    mean, (of_rows, of_seeds) = pair.gain.mean, pair.variances
    distance = max(abs(mean + margin) if mean > -margin else -mean, _NEAREST * margin)
    times = max(1.5, (of_rows + of_seeds) * (_WIDE / distance) ** 2)
    there, what = (pair.seeds, "seeds") if of_seeds > of_rows / 2 else (pair.rows, "rows")
    seeds = f"{pair.seeds} seed{'s' * (pair.seeds > 1)}"
    about = f"about {math.ceil(times * there)} {what} would be"
    return f"{pair.rows} rows and {seeds} are not enough to tell, {about}"


def _points(estimate: Estimate) -> str:
    low, high = 100 * estimate.interval.low, 100 * estimate.interval.high
    return f"{100 * estimate.mean:+.1f} points ({low:+.1f} to {high:+.1f})"
