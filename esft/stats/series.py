"""A series of evaluations against the base: where it is level or down, drops and moves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from esft.stats.intervals import SAME, Interval, bootstrap_interval, changed_share

CHANGE_ERROR = 0.02
"""Errors allowed to a claim of change. Two claims make a verdict: 4 % together, below 5 %."""

AFTER_DROP = 3
"""Evaluations after the one a drop began with: the fewest that show a line and a bend."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A mean change over rows, and what can be said of it."""

    difference: float
    interval: Interval  # at 95 %
    strict: Interval  # at the level by which it is called a change
    changed: float  # see `changed_share`
    margin: float

    @property
    def is_level(self) -> bool:
        return self.interval.within(self.margin)

    @property
    def is_change(self) -> bool:
        """Whether it is larger than the margin, and its strict interval excludes zero."""
        return abs(self.difference) > self.margin and not self.strict.low <= 0 <= self.strict.high

    @property
    def is_down(self) -> bool:
        return self.is_change and self.difference < 0

    @property
    def size(self) -> str:
        return f"{100 * abs(self.difference):.1f} points"

    @property
    def range(self) -> str:
        return f"({100 * self.interval.low:+.1f} to {100 * self.interval.high:+.1f})"

    @property
    def text(self) -> str:
        return f"{100 * self.difference:+.1f} points {self.range}"


class Series:
    """Evaluations of the same rows while tuning; arguments and errors are those of `diagnose`."""

    def __init__(
        self, base: Sequence[float], later: Mapping[int, Sequence[float]], margin: float
    ) -> None:
        if not later:
            raise ValueError("no evaluation after the base, expected at least one")
        if margin <= 0:
            raise ValueError(f"margin is {margin:g}, expected above 0")
        self.steps = sorted(later)
        self.margin = margin
        before = np.asarray(base, dtype=np.float64)
        self.rows = len(before)
        self.after = [np.asarray(later[step], dtype=np.float64) for step in self.steps]
        for step, after in zip(self.steps, self.after, strict=True):
            if after.shape != before.shape:
                raise ValueError(f"step {step}: {len(after)} rows, expected {len(before)}")
        # Bonferroni: any one of the evaluations could look like a change by chance.
        error = CHANGE_ERROR / len(self.steps)
        self.changes = [self._change(after - before, error) for after in self.after]

    def __len__(self) -> int:
        return len(self.steps)

    def drop(self) -> tuple[int, int] | None:
        """Return where the last drop begins and is deepest; None where no evaluation is down.

        It is a stretch of evaluations more than the margin below the base, one of them down.
        """
        down = [position for position, change in enumerate(self.changes) if change.is_down]
        if not down:
            return None
        first = down[-1]
        while first > 0 and self.changes[first - 1].difference < -self.margin:
            first -= 1
        deepest = min(range(first, down[-1] + 1), key=lambda at: self.changes[at].difference)
        return first, deepest

    def settling(self, first: int) -> range:
        """Return the positions by which to tell whether it still moves after a drop from `first`.

        The last three, or the later half of what came after where that is more: a slow movement
        shows over many evaluations only, and a fall that took long is no longer counted.
        """
        after = len(self) - 1 - first
        return range(len(self) - max(AFTER_DROP, (after + 1) // 2), len(self))

    def movement(self, positions: range) -> Change:
        """Return the change from the first to the last of `positions` (two or more) along a line.

        The line is fitted by least squares to the evaluations one after the other, whatever the
        steps between them. Over three it is the last minus the first.
        """
        count = len(positions)
        weights = [2 * number - (count - 1) for number in range(count)]
        scale = 2 * (count - 1) / sum(weight * weight for weight in weights)
        parts = zip(weights, positions, strict=True)
        summed = np.sum([weight * self.after[position] for weight, position in parts], axis=0)
        return self._change(summed * scale, CHANGE_ERROR)

    def _change(self, changes: np.ndarray, error: float) -> Change:
        interval = bootstrap_interval(changes, SAME)  # first: it refuses what has no mean
        return Change(
            difference=float(changes.mean()),
            interval=interval,
            strict=bootstrap_interval(changes, 1 - error),
            changed=changed_share(changes),
            margin=self.margin,
        )
