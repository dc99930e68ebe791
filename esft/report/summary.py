"""What a run came to at a glance: a title, a sentence and two big numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from esft.evals.results import Comparison, TaskResult
from esft.evals.summary import (
    counted,
    percents,
    plain,
    points_words,
    prior_words,
    reward_words,
    says_right,
    signed,
    target_words,
)
from esft.report.numbers import RunNumbers
from esft.report.trades import frontier, trades_of
from esft.runs.differences import short_name


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
            parts.append(f"{words}: {best} ({signed(100 * mean)} points).")
    return typeset(" ".join(parts))


def frontier_of(runs: Sequence[RunNumbers]) -> str:
    """Return which of several runs no other beats in what the target gained and in what prior tasks
    kept, as a sentence; empty where that cannot be compared."""
    trades = trades_of(runs)
    if not trades:
        return ""
    best = frontier(trades)
    names = ", ".join(runs[number].label for number in best)
    text = f"On the frontier, by these means: {names}"
    if left := len(trades) - len(best):
        others = "the other run" if left == 1 else f"each of the other {left}"
        text += f"; {others} did no better in either than one of these"
    return f"{text}. Runs whose intervals overlap are not told apart."


def summary_of(run: RunNumbers) -> Summary:
    """Return a run at a glance."""
    targets = [task for task in run.tasks if task.role == "target"]
    priors = [task for task in run.tasks if task.role == "prior"]
    figures = [_target_figure(task) for task in targets if task.change is not None]
    compared = [task for task in priors if task.change is not None]
    if compared:
        figures.append(_prior_figure(compared))
    of_priors = "Nothing else was watched: esft eval --prior TASK would tell what it lost."
    if priors:
        of_priors = f"What it could do before: {prior_words(priors)}."
    target = "; ".join(map(target_words, targets)) or "the task was not evaluated"
    return Summary(
        state=_state(run),
        target=typeset(f"{target[0].upper()}{target[1:]}."),
        priors=typeset(of_priors) if run.tasks else "",
        figures=tuple(figures),
    )


def typeset(text: str) -> str:
    """Return a text with arrows, minus signs and spaces as they are printed."""
    text = re.sub(r"(?<![\w-])-(?=\d)", "−", text)
    return text.replace(" -> ", " → ").replace(" %", "\u00a0%")


def percent(share: float | None) -> str:
    """Return a share as "30 %", with a decimal where it has one."""
    return "–" if share is None else f"{100 * share:.1f}".removesuffix(".0") + "\u00a0%"


def _state(run: RunNumbers) -> str:
    words = {"finished": "", "failed": "It failed after", "running": "Still running:"}
    said = words.get(run.state, "Stopped after")
    return said and f"{said} {run.steps} of {run.planned} steps."


def _target_figure(task: TaskResult) -> Figure:
    before, after, change = task.before, task.after, task.change
    if says_right(task):
        shares = (percents(before.accuracy), percents(after.accuracy))
        return _shares_figure(f"{task.name}: right answers", *shares, change)
    return Figure(
        label=f"{task.name}: reward",
        before=typeset(plain(before.reward)),
        after=typeset(plain(after.reward)),
        change=typeset(reward_words(change)),
        kind=_kind(change.reward_low, change.reward_high),
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
    label = f"{counted(count)}: right answers{' on average' if count > 1 else ''}"
    together = Comparison(
        step=0, change=mean, se=None, low=low, high=high, gained=0, lost=0, p=math.nan
    )
    return _shares_figure(label, *shares, together)


def _shares_figure(label: str, before: str, after: str, change: Comparison) -> Figure:
    return Figure(
        label=label,
        before=typeset(before),
        after=typeset(after),
        change=typeset(points_words(change)),
        kind=_kind(change.low, change.high),
    )


def _kind(low: float | None, high: float | None) -> str:
    if low is None or high is None or low <= 0 <= high:
        return ""
    return "good" if low > 0 else "bad"
