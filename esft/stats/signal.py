"""What rewards of members, row by row, tell of their noise scale: who improves, and is it chance?

**Reliability** of the members' mean rewards, 0 to 1: the share of what sets them apart that other
rows would show again. Rows are halved, and what the halves' means have in common is stepped up to
all rows (Spearman-Brown); here in closed form over all halvings at once, Cronbach's alpha.

**No signal** where members differ no more than by chance. Were they all alike, the rewards of a row
could stand beside any of them: they are dealt anew, row by row, and the means differ so much in at
most `level` of the deals if that is a signal. Exact for rewards of any law.

**Too large** where the mean of the members falls by more than they differ (one standard deviation:
fewer than one in six improve), and by more than 2 standard errors; or where one overflows.

**Mute** where there is no signal, and the members have the same reward on nine rows in ten or more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from esft.stats.intervals import Interval, bootstrap_interval, mean_and_error

LEVEL = 0.02
"""Of one claim of a signal among all noise scales that were tried."""
MUTE = 0.1
"""Share of rows that tell members apart, below which a noise scale without signal is mute."""
SIZES = (5, 10, 20, 30, 40, 50)
"""Members of which the best is expected; the largest one that there are is the last."""
NEARLY = 0.9
_DEALS, _ENOUGH = 999, 20
EQUAL = 1e-12
"""What rounding may leave of sums of the same rewards."""

Kind = Literal["mute", "works", "no signal", "too large"]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What the members of one noise scale came to, against the base on the same rows."""

    change: float
    """Mean of all members and rows."""
    change_se: float
    """Over members and over rows, both taken as drawn."""
    spread: float
    """Standard deviation of the members' means."""
    improving: float
    """Share of members above the base."""
    improving_interval: Interval
    best: dict[int, float]
    """Expected change of the best of so many members; empty with fewer than 5."""
    nearly: int | None
    """Members whose best is at 90 % of that of all; None where the best does not improve."""
    reliability: float
    """At most 1; below 0 where halves disagree."""
    p_value: float
    telling: float
    """Share of rows on which members differ."""
    overflowed: int
    """Members without a finite reward, who are left out of all else but `improving`."""

    def kind(self, level: float = LEVEL) -> Kind:
        """Return the verdict; see the top of the module."""
        fell = -self.change > max(self.spread, 2 * self.change_se)
        if self.overflowed or fell:
            return "too large"
        if self.p_value <= level:
            return "works"
        return "mute" if self.telling < MUTE else "no signal"

    @property
    def likely_best(self) -> float:
        """Change expected of the best member on other rows: what chance gave it is taken off."""
        best = max(self.best.values(), default=self.change)
        return self.change + max(0.0, self.reliability) * (best - self.change)


def signal_of(rewards: Sequence[Sequence[float]], base: Sequence[float], seed: int = 0) -> Signal:
    """Return what the rewards of members tell; `seed` is of the deals.

    Args:
        rewards: (members, rows), members 2 or more with finite rewards, else all is NaN.
        base: (rows,), 2 or more.
    """
    given, before = np.asarray(rewards, dtype=np.float64), np.asarray(base, dtype=np.float64)
    finite = given[np.isfinite(given).all(axis=1)]
    overflowed = len(given) - len(finite)
    changes = (finite - before).mean(axis=1)
    better = [1.0] * int((changes > EQUAL).sum())
    # One more that improves and one that does not are added: see `bootstrap_interval`.
    signs = bootstrap_interval([*better, *[-1.0] * (len(given) - len(better))])
    interval = Interval(max(0.0, (1 + signs.low) / 2), min(1.0, (1 + signs.high) / 2), signs.level)
    usable = len(finite) > 1 and bool(np.isfinite(before).all())
    if not usable:
        finite = np.full((2, len(before)), math.nan)
    change, of_members = mean_and_error(changes.tolist()) if usable else (math.nan, math.nan)
    of_rows = mean_and_error((finite - before).mean(axis=0).tolist())[1]
    best = {size: expected_best(changes, size) for size in _sizes(len(changes))} if usable else {}
    return Signal(
        change=change,
        change_se=math.hypot(of_members, of_rows),
        spread=float(changes.std(ddof=1)) if usable else math.nan,
        improving=len(better) / len(given),
        improving_interval=interval,
        best=best,
        nearly=_nearly(changes, max(best)) if best else None,
        reliability=reliability(finite),
        p_value=chance_of_spread(finite, seed) if usable else 1.0,
        telling=float((np.ptp(finite, axis=0) > 0).mean()),
        overflowed=overflowed,
    )


def _sizes(members: int) -> list[int]:
    most = min(members, SIZES[-1])
    return [size for size in SIZES if size < most] + [most] * (most >= SIZES[0])


def expected_best(values: Sequence[float], size: int) -> float:
    """Return the mean, over all subsets of so many of the values, of the largest in each.

    The i-th smallest of n is the largest of C(i - 1, size - 1) of the C(n, size) subsets: what
    random subsets would tend to.

    Source: Delta*_N of arXiv:2602.00170, which draws 2,000 subsets.
    """
    ordered = sorted(map(float, values))
    whole = math.comb(len(ordered), size)
    return math.fsum(
        value * (math.comb(rank, size - 1) / whole) for rank, value in enumerate(ordered)
    )


def _nearly(changes: np.ndarray, most: int) -> int | None:
    wanted = NEARLY * expected_best(changes, most)
    sizes = range(1, most + 1)
    if wanted <= 0:
        return None
    return next(size for size in sizes if expected_best(changes, size) >= wanted)


def reliability(rewards: np.ndarray) -> float:
    """Return the reliability of the members' means, rewards (members, rows); 0 if none differ.

    Mean over all halvings of 4 cov(a, b) / var(a + b), a and b the sums of the two halves, which
    is Spearman-Brown's 2 r / (1 + r) where the halves vary alike.

    Source: Cronbach, 1951, Psychometrika 16(3).
    """
    rows = rewards.shape[1]
    whole = rewards.sum(axis=1).var(ddof=1)
    single = rewards.var(axis=0, ddof=1).sum()
    if not whole > 0:
        return 0.0
    return float(rows / (rows - 1) * (1 - single / whole))


def at_rows(reliable: float, times: float) -> float:
    """Return what a reliability becomes with so many times the rows (Spearman-Brown)."""
    return times * reliable / (1 + (times - 1) * reliable)


def combined(chances: Sequence[float]) -> float:
    """Return the p-value of independent ones together.

    -2 times the sum of their logarithms has a chi-squared law of twice as many degrees of freedom,
    where there is nothing but chance.

    Source: Fisher, 1932, Statistical Methods for Research Workers, section 21.1.
    """
    half = -math.fsum(map(math.log, chances))
    terms = (half**power / math.factorial(power) for power in range(len(chances)))
    return math.exp(-half) * math.fsum(terms)


def chance_of_spread(rewards: np.ndarray, seed: int) -> float:
    """Return how often means differ as much where each row's rewards are dealt anew to members.

    Deals end at the twentieth that does, or after 999.

    Source: Besag and Clifford, 1991, Biometrika 78(2), for when they may end.
    """
    seen = rewards.sum(axis=1).var()
    dealer, reached = np.random.default_rng(seed), 0
    for deals in range(1, _DEALS + 1):
        dealt = dealer.permuted(rewards, axis=0)
        reached += bool(dealt.sum(axis=1).var() >= seen * (1 - 1e-9))
        if reached == _ENOUGH:
            return reached / deals
    return (reached + 1) / (_DEALS + 1)
