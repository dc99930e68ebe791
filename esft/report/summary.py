"""What a run came to at a glance: a title, a sentence and two big numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from esft.evals.results import Comparison, TaskResult
from esft.report.numbers import RunNumbers
from esft.runs.differences import short_name
from esft.stats.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A big number: from what to what."""

    label: str
    before: str
    after: str
    change: str
    kind: str  # "good" or "bad" beyond chance, else ""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run at a glance."""

    state: str  # empty once a run is finished
    target: str
    priors: str
    figures: tuple[Figure, ...]


def title_of(runs: Sequence[RunNumbers]) -> str:
    """Return what was taught to which model; where that differs, how many runs there are."""
    titles = {about(run) for run in runs}
    if len(titles) > 1:
        return f"{len(runs)} runs side by side"
    return titles.pop() + (f": {len(runs)} runs" if len(runs) > 1 else "")


def about(run: RunNumbers) -> str:
    """Return task and model of a run, without the folders they lie in."""
    return f"{short_name(run.task)} on {short_name(run.model)}"


def comparison_of(runs: Sequence[RunNumbers]) -> str:
    """Return which of several runs of one task gained most and which kept most, by the mean change
    of the tasks that all of them have; empty where there is nothing to compare."""
    if len(runs) < 2 or len({about(run) for run in runs}) > 1:
        return ""
    parts = []
    for role, words in (("target", "Most gained"), ("prior", "Most kept of what it could do")):
        found = [
            {
                task.name: task.change.change
                for task in run.tasks
                if task.role == role and task.change
            }
            for run in runs
        ]
        shared = set(found[0]).intersection(*found)
        means = [math.fsum(changes[name] for name in shared) for changes in found]
        if shared and means.count(max(means)) == 1:
            best, mean = runs[means.index(max(means))].label, max(means) / len(shared)
            parts.append(f"{words}: {best} ({_points(mean)} points).")
    return " ".join(parts)


def summary_of(run: RunNumbers) -> Summary:
    """Return a run at a glance."""
    targets = [task for task in run.tasks if task.role == "target"]
    priors = [task for task in run.tasks if task.role == "prior"]
    figures = [_target_figure(task) for task in targets if task.change is not None]
    compared = [task for task in priors if task.change is not None]
    if compared:
        figures.append(_prior_figure(compared))
    return Summary(
        state=_state(run),
        target=" ".join(map(_of_target, targets)) or "The task was not evaluated.",
        priors=_of_priors(priors) if run.tasks else "",
        figures=tuple(figures),
    )


def says_right(task: TaskResult) -> bool:
    """Return whether right answers tell anything of a task: with a reward of one's own, no answer
    may ever count as right."""
    return any(score.accuracy for score in task.evaluations) or not any(
        score.reward for score in task.evaluations
    )


def percent(share: float | None) -> str:
    """Return a share as "30 %", with a decimal where it has one."""
    return "–" if share is None else f"{100 * share:.1f}".removesuffix(".0") + "\u00a0%"


def signed(value: float, form: str = ".1f") -> str:
    """Return a number with its sign, and none where it is rounded to zero."""
    text = format(value, f"+{form}")
    return text[1:] if not float(text) else text.replace("-", "−")


def _points(share: float) -> str:
    return signed(100 * share)


def _state(run: RunNumbers) -> str:
    words = {"finished": "", "failed": "It failed after", "running": "Still running:"}
    said = words.get(run.state, "Stopped after")
    return said and f"{said} {run.steps} of {run.planned} steps."


def _of_target(task: TaskResult) -> str:
    before, after, change = task.before, task.after, task.change
    if before is None:
        return "The base model was not evaluated."
    rows = f"{before.n:,} row{'s' * (before.n != 1)} it was not tuned on"
    if after is None or change is None:
        has = f"{percent(before.accuracy)} right"
        has = has if says_right(task) else f"a reward of {_plain(before.reward)}"
        return f"The base model has {has} on {rows}; what tuning did was not measured yet."
    sentence = ""
    if says_right(task):
        sentence = f"{percent(before.accuracy)} → {percent(after.accuracy)} right on {rows}: "
        sentence += f"{_points(change.change)} points{_likely(change.low, change.high, 100)}."
        rows = ""
    if change.reward_change is not None:
        sentence += f" Reward {_plain(before.reward)} → {_plain(after.reward)}"
        sentence += f"{f' on {rows}' if rows else ''}: {signed(change.reward_change, '.2f')}"
        sentence += f"{_likely(change.reward_low, change.reward_high, 1)}."
    return sentence.strip()


def _likely(low: float | None, high: float | None, scale: float) -> str:
    if low is None or high is None:
        return ""
    form = ".1f" if scale == 100 else ".2f"
    chance = "; it may be chance" if low <= 0 <= high else ""
    return f" (likely {signed(scale * low, form)} to {signed(scale * high, form)}{chance})"


def _of_priors(tasks: Sequence[TaskResult]) -> str:
    """Return what became of what the model could do before."""
    if not tasks:
        return "Nothing else was watched: esft eval --prior TASK would tell what it lost."
    judged = [task for task in tasks if task.change is not None]
    if not judged:
        return f"{_count(len(tasks))} that it could do before, not measured again yet."
    groups: dict[str, list[str]] = {"kept": [], "better": [], "worse": [], "open": []}
    for task in judged:
        group = _outcome(task.verdict)
        points = _points(task.change.change)
        groups[group].append(task.name if group == "open" else f"{task.name} {points}")
    parts = [f"{len(groups['kept'])} kept"] if groups["kept"] else []
    for group in ("better", "worse"):
        if names := groups[group]:
            parts.append(f"{len(names)} {group} ({_few(names)})")
    if groups["open"]:
        parts.append(f"{len(groups['open'])} with too few rows to tell ({_few(groups['open'])})")
    return f"{_count(len(judged))} that it could do before: {', '.join(parts)}."


def _count(tasks: int) -> str:
    return f"{tasks} other task{'s' * (tasks != 1)}"


def _few(names: list[str]) -> str:
    return ", ".join(names if len(names) < 5 else [*names[:3], f"{len(names) - 3} more"])


def _outcome(verdict: Verdict | None) -> str:
    if verdict is None:
        return "open"
    if verdict.kind in ("unchanged", "recovered"):
        return "kept"
    words = {"improved": "better", "lost": "worse", "drifting": "worse", "down": "worse"}
    return words.get(verdict.kind, "open")


def _target_figure(task: TaskResult) -> Figure:
    before, after, change = task.before, task.after, task.change
    if says_right(task):
        shares = (percent(before.accuracy), percent(after.accuracy))
        return _figure(f"{task.name}: right answers", *shares, change)
    low, high = change.reward_low, change.reward_high
    return Figure(
        label=f"{task.name}: reward",
        before=_plain(before.reward),
        after=_plain(after.reward),
        change=f"{signed(change.reward_change or 0, '.2f')}{_likely(low, high, 1)}",
        kind=_kind(low, high),
    )


def _prior_figure(tasks: Sequence[TaskResult]) -> Figure:
    """Return the mean over tasks, each of them counting the same.

    Its interval has the half-widths of the tasks' own added in squares, each side by itself.
    Source: Zou and Donner, 2008, Statistics in Medicine 27(10), for sums of independent estimates.
    """
    count, changes = len(tasks), [task.change for task in tasks]
    mean = math.fsum(change.change for change in changes) / count
    low = mean - math.hypot(*(change.change - change.low for change in changes)) / count
    high = mean + math.hypot(*(change.high - change.change for change in changes)) / count
    shares = [
        percent(math.fsum(score.accuracy or 0 for score in side) / count)
        for side in ([task.before for task in tasks], [task.after for task in tasks])
    ]
    label = f"{_count(count)}: right answers{' on average' if count > 1 else ''}"
    together = Comparison(
        step=0, change=mean, se=None, low=low, high=high, gained=0, lost=0, p=math.nan
    )
    return _figure(label, *shares, together)


def _figure(label: str, before: str, after: str, change: Comparison) -> Figure:
    text = f"{_points(change.change)} points{_likely(change.low, change.high, 100)}"
    kind = _kind(change.low, change.high)
    return Figure(label=label, before=before, after=after, change=text, kind=kind)


def _kind(low: float | None, high: float | None) -> str:
    if low is None or high is None or low <= 0 <= high:
        return ""
    return "good" if low > 0 else "bad"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")
