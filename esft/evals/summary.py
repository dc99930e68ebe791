"""What tuning did, in one sentence for people."""

from collections.abc import Sequence

from esft.rollout.results import Evaluation
from esft.stats.intervals import Interval
from esft.stats.paired import compare, compare_rewards
from esft.stats.series import Series
from esft.stats.verdict import MARGIN
from esft.tuning.watcher import TaskScores

_MOST = 0.5  # of what it had right: a prior task that lost more is one that lost most
_NAMED = 3  # tasks; of more, how many they are is enough


def summary(target: TaskScores, priors: Sequence[TaskScores]) -> str:
    """Return what became of the target and of the prior tasks, with 95 % intervals.

    "kept" is what lies within the margin of `verdict` for certain; "down" and "up" are more than
    the margin, beyond chance; of the rest that is said as well.
    """
    return "; ".join([*target_parts(target.base, target.now), *prior_parts(priors)])


def target_parts(base: Evaluation, now: Evaluation) -> list[str]:
    """Return the share right and, where it says something else, the reward; the rows once."""
    before, after = (
        [(float(bool(row.correct)), row.reward) for row in side.results] for side in (base, now)
    )
    rewards = compare_rewards(before, after)
    parts, rows = [], f" on {base.n} row{'' if base.n == 1 else 's'}"
    if rewards is None or any(right for right, _ in (*before, *after)):
        change = compare([right for right, _ in before], [right for right, _ in after])
        text = f"{base.accuracy:.0%} -> {now.accuracy:.0%} right{rows}, "
        parts.append(text.replace("%", " %") + _change(change.interval, change.difference, 100))
        rows = ""
    if rewards is not None:
        text = f"reward {base.reward:.2f} -> {now.reward:.2f}{rows}, "
        parts.append(text + _change(rewards.interval, rewards.difference, 1))
    return parts


def prior_parts(priors: Sequence[TaskScores]) -> list[str]:
    """Return how many prior tasks were kept and what became of the others; where most are lost,
    what to try."""
    found: dict[str, list[str]] = {"lost": [], "down": [], "up": [], "kept": [], "open": []}
    for task in priors:
        before, after = (
            [float(bool(row.correct)) for row in side.results] for side in (task.base, task.now)
        )
        change = Series(before, {1: after}, MARGIN).changes[-1]
        kind = "kept" if change.is_level else "open"
        if change.is_change:
            kind = "down" if change.is_down else "up"
        if kind == "down" and task.now.accuracy < _MOST * task.base.accuracy:
            kind = "lost"
        points = f" by {100 * abs(change.difference):.0f} points" if kind in ("down", "up") else ""
        found[kind].append(task.name + points)
    parts, count = [], len(priors)
    if lost := found["lost"]:
        parts.append(f"lost most of {len(lost)} of {_tasks(count)}: a smaller alpha or --awd")
    if kept := found["kept"]:
        parts.append(f"{_tasks(len(kept))} kept")
    parts += [f"{kind}: {', '.join(found[kind])}" for kind in ("down", "up") if found[kind]]
    if left := found["open"]:
        which = ", ".join(left) if len(left) <= _NAMED else f"{len(left)} of {_tasks(count)}"
        parts.append(f"too few rows to tell of {which}")
    return parts


def _tasks(count: int) -> str:
    return f"{count} prior task{'' if count == 1 else 's'}"


def _change(interval: Interval, difference: float, scale: float) -> str:
    form, unit = ("+.0f", " points") if scale == 100 else ("+.2f", "")
    texts = [format(scale * x, form) for x in (difference, interval.low, interval.high)]
    change, low, high = (text if float(text) else text[1:] for text in texts)  # no sign for 0
    chance = " (no change beyond chance)" if interval.low <= 0 <= interval.high else ""
    return f"{change}{unit}, {low} to {high}{chance}"
