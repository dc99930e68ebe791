"""The sections of a report: which charts stand together, and the lines of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from esft.evals.results import TaskResult
from esft.evals.summary import says_right
from esft.report.chart import Box, Chart, Key, Line, Section
from esft.report.numbers import RunNumbers
from esft.report.trades import trades_of
from esft.rollout.typed import known
from esft.runs.steps import TriedSigma

WIDE = 1.96  # standard errors on either side that hold the truth in 95 % of cases


def sections_of(runs: Sequence[RunNumbers]) -> list[Section]:
    """Return the sections that have something to show, without lines that have no value."""
    sections = []
    for name, (make, styles) in _PLANS.items():
        charts = []
        for chart in make(runs):
            lines = [line for line in chart.lines if set(line.values) - {None}]
            if lines or any(box.values for box in chart.boxes):
                charts.append(replace(chart, lines=tuple(lines)))
        if charts:
            shown = sorted({one.run for chart in charts for one in (*chart.lines, *chart.boxes)})
            keys = [Key(text=runs[run].label, run=run) for run in shown] if len(runs) > 1 else []
            sections.append(Section(name=name, charts=tuple(charts), keys=(*keys, *styles)))
    return sections


_SHARES = {"label": "share", "limits": (-0.03, 1.03), "percent": True}

Point = tuple[int, float | None, float | None]  # step, value and its standard error


def _by_task(
    runs: Sequence[RunNumbers],
    role: str | None,
    title: str,  # the task's name in place of {}
    label: str,
    curves: dict[str, Callable[[TaskResult], list[Point]]],  # by the style of their lines
) -> list[Chart]:
    """Return a chart a task of a role, or of any: a line a run and curve, with 95 % bands."""
    lines: dict[str, list[Line]] = {}
    for style, points_of in curves.items():
        for number, run in enumerate(runs):
            for task in run.tasks:
                points = points_of(task) if role in (None, task.role) else []
                if not points:
                    continue
                steps, values, errors = zip(*points, strict=True)
                errors = tuple(None if error is None else WIDE * error for error in errors)
                line = Line(run=number, steps=steps, values=values, errors=errors, style=style)
                lines.setdefault(task.name, []).append(replace(line, marked=True))
    return [
        Chart(title=title.format(name), label=label, lines=tuple(of_task))
        for name, of_task in lines.items()
    ]


def _task_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return a chart a task on one scale, the targets first, with a level where the base is.

    A target in which no answer counts as right is shown by its reward, on a scale of its own.
    """

    def shares(task: TaskResult) -> list[Point]:
        scores = task.evaluations if says_right(task) or task.role == "prior" else ()
        return [(score.step, score.accuracy, score.se) for score in scores]

    def rewards(task: TaskResult) -> list[Point]:
        return [] if says_right(task) else _rewards(task)

    tuned = "{} (tuned on)"
    charts = _by_task(runs, "target", tuned, "right answers", {"solid": shares})
    charts += _by_task(runs, "prior", "{}", "right answers", {"solid": shares})
    charts = [replace(chart, limits=_SHARES["limits"], percent=True) for chart in charts]
    charts = _by_task(runs, "target", tuned, "reward", {"solid": rewards}) + charts
    based = []
    for chart in charts:
        bases = {dict(zip(line.steps, line.values, strict=True)).get(0) for line in chart.lines}
        based.append(replace(chart, level=bases.pop() if len(bases) == 1 else None))
    return based


def _rewards(task: TaskResult) -> list[Point]:
    return [(score.step, score.reward, score.reward_se) for score in task.evaluations]


def _trade_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return what several runs gained on their target against what prior tasks changed by: a point
    a run, of the tasks that all of them have."""
    points = trades_of(runs)
    lines = [
        Line(
            run=number,
            steps=(100 * prior,),
            values=(100 * target,),
            errors=(100 * error,),
            marked=True,
        )
        for number, (prior, target, error) in enumerate(points)
    ]
    title, across = "Gained against lost", "mean change of prior tasks, points"
    label = "change of the target, points"
    return [Chart(title=title, label=label, across=across, lines=tuple(lines), level=0)]


def _drift_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return ||D|| beside its forecasts, with and without decay, and their ratio."""
    lengths = _progress(runs, "drift") + _progress(runs, "free", style="dotted")
    lengths += _progress(runs, "forecast", style="dashed", thin=True)
    over = Chart(
        title="Drift over forecast",
        label="||D|| / forecast",
        lines=_progress(runs, "ratio"),
        level=1,
    )
    # Limits around 1 that do not make rounding look like a difference.
    away = [abs(value - 1) for line in over.lines for value in line.values if value is not None]
    reach = max(0.05, 1.2 * max(away, default=0))
    drift = Chart(title="Drift", label="||D||", lines=lengths)
    lines = _progress(runs, "changed")
    most = max((value for line in lines for value in line.values if value is not None), default=0)
    changed = Chart(
        title="Codes changed a step",
        label="share of the codes",
        lines=lines,
        limits=(0, 1.2 * most),
        percent=True,
    )
    of_codes = [changed] if most else []
    moves = _progress(runs, "anchor")
    anchor = Chart(title="How far the anchor has moved", label="||E||", lines=moves)
    return [drift, anchor, replace(over, limits=(1 - reach, 1 + reach)), *of_codes]


def _decay_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    title, label = "What the decay left of the drift", "||D|| / forecast without decay"
    lines = _progress(runs, "left")
    return [Chart(title=title, label=label, lines=lines, limits=(0, 1.1), level=1)]


def _population_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return rewards of the population, how far its members lie apart, and how much of that is
    signal; first the reward on holdout rows, where that is something else than right answers."""

    def holdout(task: TaskResult) -> list[Point]:
        other = any(score.reward != score.accuracy for score in task.evaluations)
        return _rewards(task) if other and says_right(task) else []

    rewards = _progress(runs, "reward_mean", errors="reward_sd")
    rewards += _progress(runs, "reward_best", style="dashed")
    spread, right = _progress(runs, "reward_sd"), _progress(runs, "correct")
    signal, silent = _progress(runs, "reliability"), _progress(runs, "silent")
    kl, penalty = _progress(runs, "kl"), _progress(runs, "penalty")
    return [
        *_by_task(runs, "target", "{}: reward on rows not tuned on", "reward", {"solid": holdout}),
        Chart(title="Reward on rows tuned on", label="reward", lines=rewards),
        Chart(title="KL of the members from the anchor", label="nats a token", lines=kl),
        Chart(title="What that takes from their reward", label="reward", lines=penalty),
        Chart(title="Spread of the members", label="standard deviation", lines=spread),
        Chart(title="Right answers on training rows", label="share", lines=right),
        Chart(title="Reliability of the members' rewards", lines=signal, **_SHARES),
        Chart(title="Rows that tell members nothing", lines=silent, **_SHARES),
    ]


def probe_chart(
    title: str,
    base: float,
    tried: Sequence[TriedSigma],
    chosen: float | None = None,
    run: int = 0,
) -> Chart:
    """Return the reward of members at each sigma, against that of the base model."""
    boxes = []
    for one in tried:
        finite = tuple(base + change for change in one.changes if math.isfinite(change))
        lost = len(one.changes) - len(finite)
        note = one.verdict + (f"\n{lost} overflow" if lost else "")
        note += "\nchosen" if one.sigma == chosen else ""
        boxes.append(Box(label=f"{one.sigma:g}", values=finite, note=note, run=run))
    return Chart(title=title, label="mean reward", across="sigma", boxes=tuple(boxes), level=base)


def _probe_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return a chart a run that chose its sigma by trying."""
    charts = []
    for number, run in enumerate(runs):
        if (probe := run.probe) is not None:
            title = f"{probe.members} members at each sigma, on {probe.rows} rows"
            title = f"{run.label}: {title}" if len(runs) > 1 else title
            base = probe.base_reward
            charts.append(probe_chart(title, base, probe.sigmas, probe.chosen, number))
    return charts


def _kl_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return a chart a task: KL in both directions, on one scale."""

    def points(direction: str, task: TaskResult) -> list[Point]:
        pairs = [(pair.step, getattr(pair, direction)) for pair in task.kl]
        return [(step, known(estimate.kl), known(estimate.se)) for step, estimate in pairs]

    styles = {"solid": "base_to_tuned", "dashed": "tuned_to_base"}
    curves = {style: partial(points, direction) for style, direction in styles.items()}
    return _on_one_scale(_by_task(runs, None, "{}", "nats a token", curves))


def _layer_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return the drift layer by layer at the last step measured."""
    last = {number: run.drift[-1].layers for number, run in enumerate(runs) if run.drift}
    rows = tuple(dict.fromkeys(layer.name for layers in last.values() for layer in layers))
    lines = []
    for number, layers in last.items():
        rms = {layer.name: known(layer.norm / math.sqrt(layer.numel)) for layer in layers}
        values = tuple(rms.get(row) for row in rows)
        lines.append(Line(run=number, steps=tuple(range(len(rows))), values=values))
    label = "root mean square of D"
    return [Chart(title="Layers", label=label, lines=tuple(lines), rows=rows)]


def _progress(
    runs: Sequence[RunNumbers], name: str, errors: str | None = None, **style: object
) -> tuple[Line, ...]:
    """Return a line a run of what `StepNumbers` has under `name`."""
    return tuple(
        Line(
            run=number,
            steps=tuple(step.step for step in run.progress),
            values=tuple(getattr(step, name) for step in run.progress),
            errors=None if errors is None else tuple(getattr(s, errors) for s in run.progress),
            **style,
        )
        for number, run in enumerate(runs)
    )


def _on_one_scale(charts: list[Chart]) -> list[Chart]:
    """Return charts of values of 0 or more on the scale of the widest."""
    highest = [
        value + (error or 0)
        for chart in charts
        for line in chart.lines
        for value, error in zip(line.values, line.errors, strict=True)
        if value is not None
    ]
    top = max(highest, default=0) or 1
    return [replace(chart, limits=(-0.05 * top, 1.05 * top)) for chart in charts]


_INTERVAL = Key(text="range of chance (95 % interval)", style="band")

PROBE_KEYS = (Key(text="base model", style="level"),)

_PLANS: dict[str, tuple[Callable[[Sequence[RunNumbers]], list[Chart]], tuple[Key, ...]]] = {
    "tasks": (_task_charts, (_INTERVAL, Key(text="base model", style="level"))),
    "trade": (_trade_charts, (Key(text="base model", style="level"),)),
    "drift": (
        _drift_charts,
        (
            Key(text="measured"),
            Key(text="forecast", style="dashed"),
            Key(text="forecast without decay", style="dotted"),
        ),
    ),
    "decay": (_decay_charts, ()),
    "kl": (
        _kl_charts,
        (
            Key(text="KL(base || tuned), on the base's continuations"),
            Key(text="KL(tuned || base), on the tuned model's", style="dashed"),
            _INTERVAL,
        ),
    ),
    "rewards": (
        _population_charts,
        (
            Key(text="mean of the members"),
            Key(text="best member", style="dashed"),
            Key(text="1 standard deviation of the members", style="band"),
        ),
    ),
    "layers": (_layer_charts, ()),
    "probe": (_probe_charts, PROBE_KEYS),
}

NAMES = tuple(_PLANS)
"""Of the sections there can be, and of their pictures."""
