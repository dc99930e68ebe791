"""Whether the holdout reward of a run is past its peak, by more than noise could make."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from esft.stats.intervals import SAME, bootstrap_interval, mean_and_error


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The step with the best holdout reward, and how much of it the evaluations since have lost."""

    step: int
    reward: float
    reward_se: float
    rows: int
    since: tuple[int, ...]  # the steps compared with it
    change: float  # of the reward, from the peak to their mean, paired on the rows
    low: float  # of the interval of `change`, at `level`
    high: float
    level: float  # above 0.95: see `find_peak`

    def __str__(self) -> str:
        steps = f"step{'s' * (len(self.since) > 1)} {', '.join(map(str, self.since))}"
        best = f"step {self.step}" if self.step else "the base model"
        return (
            f"{best}, reward {self.reward:.4f} +- {self.reward_se:.4f} on {self.rows} "
            f"holdout rows; {self.change:+.4f} in {steps} ({self.low:+.4f} to {self.high:+.4f})"
        )


def find_peak(rewards: Mapping[int, Sequence[float]], best: int, patience: int) -> Peak | None:
    """Return the peak of a run; None where it may still rise, or noise could have made the peak.

    The rewards of the last `patience` evaluations, averaged row by row, must lie below those of the
    best one. A run looks at every evaluation and takes the best of all, so noise has many chances:
    evaluation t after the base compares with one of t, and is given 1 / (t (t + 1)) of the 5 % in
    which a run without a peak may be ended. These sum to 5 % over all t, however long it is; half
    of it is on the side where the reward rose.

    Args:
        rewards: of each holdout row by step, in rising order: of the base model, 0, and of every
            evaluation since. A row that is not finite counts as the lowest that is.
        best: the step with the best mean.
        patience: evaluations since the best one without a better, at least 1.
    """
    since = [step for step in rewards if step > best]
    if len(since) < patience:
        return None
    compared = {step: rewards[step] for step in (best, *since[-patience:])}
    lowest = min(value for row in compared.values() for value in row if math.isfinite(value))
    top, *later = (
        [value if math.isfinite(value) else lowest for value in row] for row in compared.values()
    )
    changes = [sum(values) / patience - before for before, *values in zip(top, *later, strict=True)]
    looks = len(rewards) - 1
    interval = bootstrap_interval(changes, 1 - (1 - SAME) / (looks**2 * (looks + 1)))
    if interval.high >= 0:
        return None
    reward, error = mean_and_error(top)
    return Peak(
        step=best,
        reward=reward,
        reward_se=error,
        rows=len(top),
        since=tuple(compared)[1:],
        change=mean_and_error(changes)[0],
        low=interval.low,
        high=interval.high,
        level=interval.level,
    )
