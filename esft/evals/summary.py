"""What tuning did, in words: a run says them at its end, and its report first of all."""

from collections.abc import Sequence

from esft.evals.results import Comparison, TaskResult

_MOST = 0.5  # of what it had right: a prior task that lost more is one that lost most
_NAMED = 4  # tasks; of more, three and how many others
_KEPT = ("unchanged", "recovered")  # by their verdicts
_DOWN = ("down", "drifting", "lost")


def summary(tasks: Sequence[TaskResult]) -> str:
    """Return what became of target and prior tasks, in one sentence without its full stop."""
    targets = [target_words(task) for task in tasks if task.role == "target"]
    return "; ".join(filter(None, [*targets, prior_words(tasks)]))


def target_words(task: TaskResult) -> str:
    """Return the share right and, where it says something else, the reward, with 95 % intervals;
    the rows once."""
    before, after, change = task.before, task.after, task.change
    if before is None:
        return "the base model was not evaluated"
    rows, right = f" on {before.n:,} row{'s' * (before.n != 1)}", says_right(task)
    if after is None or change is None:
        has = f"{percents(before.accuracy)} right"
        has = has if right else f"a reward of {plain(before.reward)}"
        return f"the base model has {has}{rows}; what tuning did was not measured yet"
    parts = []
    if right or change.reward_change is None:
        shares = f"{percents(before.accuracy)} -> {percents(after.accuracy)} right{rows}"
        parts.append(f"{shares}, {points_words(change)}")
        rows = ""
    if change.reward_change is not None:
        rewards = f"reward {plain(before.reward)} -> {plain(after.reward)}{rows}"
        parts.append(f"{rewards}, {reward_words(change)}")
    return "; ".join(parts)


def prior_words(tasks: Sequence[TaskResult]) -> str:
    """Return how many prior tasks were kept and which have another verdict; where most are lost,
    what to try. Nothing where there is none."""
    priors = [task for task in tasks if task.role == "prior"]
    judged = [task for task in priors if task.change is not None]
    if not judged:
        return f"{counted(len(priors))} not measured again yet" if priors else ""
    names: dict[str, list[str]] = {}
    for task in judged:
        kind = "not enough" if task.verdict is None else task.verdict.kind
        if kind in _DOWN and (task.after.accuracy or 0) < _MOST * (task.before.accuracy or 0):
            kind = "most"
        points = f" {signed(100 * task.change.change)} points" if kind != "not enough" else ""
        names.setdefault("kept" if kind in _KEPT else kind, []).append(task.name + points)
    parts = []
    if most := names.get("most"):
        of_all = f"{len(most)} of {counted(len(judged))}"
        parts.append(f"lost most of {of_all}: a smaller alpha or --awd")
    if kept := names.get("kept"):
        parts.append(f"{counted(len(kept))} kept")
    parts += [f"{kind}: {_few(names[kind])}" for kind in (*_DOWN, "improved") if kind in names]
    if left := names.get("not enough"):
        parts.append(f"too few rows to tell of {_few(left)}")
    return "; ".join(parts)


def says_right(task: TaskResult) -> bool:
    """Return whether right answers tell anything of a task: with a reward of one's own, no answer
    may ever count as right."""
    return any(score.accuracy for score in task.evaluations) or not any(
        score.reward for score in task.evaluations
    )


def counted(tasks: int) -> str:
    """Return how many prior tasks, in words."""
    return f"{tasks} prior task{'s' * (tasks != 1)}"


def percents(share: float | None) -> str:
    """Return a share as "30 %"."""
    return "?" if share is None else f"{100 * share:.0f} %"


def plain(reward: float | None) -> str:
    """Return a reward."""
    return "?" if reward is None else f"{reward:.2f}"


def points_words(change: Comparison) -> str:
    """Return the change of a share right, with its interval; in tenths where rows tell them."""
    figures = (100 * change.change, 100 * change.low, 100 * change.high)
    return _change_words(figures, ".1f" if change.high - change.low < 0.05 else ".0f", " points")


def reward_words(change: Comparison) -> str:
    """Return the change of a reward, with its interval."""
    return _change_words((change.reward_change, change.reward_low, change.reward_high), ".2f", "")


def _change_words(figures: tuple[float | None, ...], form: str, unit: str) -> str:
    if None in figures:
        return "by how much is not known"
    change, low, high = figures
    chance = " (no change beyond chance)" if low <= 0 <= high else ""
    return f"{signed(change, form)}{unit}, {signed(low, form)} to {signed(high, form)}{chance}"


def signed(value: float, form: str = ".0f") -> str:
    """Return a number with its sign, and none where it is rounded to zero."""
    text = format(value, f"+{form}")
    return text if float(text) else text[1:]


def _few(names: list[str]) -> str:
    return ", ".join(names if len(names) <= _NAMED else [*names[:3], f"{len(names) - 3} more"])
