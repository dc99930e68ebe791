"""Which charts a report has: from the numbers of runs to the lines of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from esft.evals.results import KlPair, StepScore, TaskResult, known
from esft.report.chart import Chart, DotChart, Line
from esft.report.numbers import RunNumbers, StepNumbers

WIDE = 1.96
"""Standard errors on either side that hold the truth in 95 % of cases."""


def task_charts(runs: Sequence[RunNumbers], role: str) -> list[Chart]:
    """Return a chart a task of a role: accuracy with 95 % bands, on one scale for all tasks."""
    charts = [
        Chart(
            name=f"{role}-{name}",
            title=name,
            label="accuracy",
            lines=_lines(runs, lambda run, name=name: _accuracy(_task(run, role, name))),
        )
        for name in _names(runs, role)
    ]
    return _on_one_scale([chart for chart in charts if chart.lines], within=(0, 1))


def reward_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return a chart of the holdout reward a target, where it is something else than accuracy."""
    charts = [
        Chart(
            name=f"target-reward-{name}",
            title=f"{name}: reward",
            label="mean holdout reward",
            lines=_lines(runs, lambda run, name=name: _reward(_task(run, "target", name))),
        )
        for name in _names(runs, "target")
    ]
    return [chart for chart in charts if chart.lines]


def drift_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return ||D|| beside its forecasts, with and without decay, and their ratio."""
    forecast = [replace(line, thin=True) for line in _progress(runs, _of("forecast"), "dashed")]
    free = _progress(runs, _of("free"), "dotted")
    lengths = (*_progress(runs, _of("drift")), *free, *forecast)
    ratio = _progress(runs, _of("ratio"))
    return _drawn(
        Chart(name="drift-norm", title="Drift", label="||D||", lines=lengths),
        Chart(
            name="drift-ratio",
            title="Drift over forecast",
            label="||D|| / forecast",
            lines=ratio,
            limits=_ratio_limits(ratio),
            level=1,
        ),
    )


def decay_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return what the decay left of the drift that was to be expected without it."""
    return _drawn(
        Chart(
            name="decay-left",
            title="What the decay left of the drift",
            label="||D|| / forecast without decay",
            lines=_progress(runs, _of("left")),
            limits=(0, 1.1),
            level=1,
        )
    )


def population_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return rewards of the population, how far its members lie apart, and its right answers."""
    means = _progress(runs, _of("reward_mean"), errors=_of("reward_sd"))
    best = _progress(runs, _of("reward_best"), "dashed")
    return _drawn(
        Chart(name="rewards-mean", title="Reward", label="reward", lines=(*means, *best)),
        Chart(
            name="rewards-spread",
            title="Spread of the members",
            label="standard deviation",
            lines=_progress(runs, _of("reward_sd")),
        ),
        Chart(
            name="rewards-correct",
            title="Right answers on training rows",
            label="share",
            lines=_progress(runs, _of("correct")),
        ),
    )


def kl_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return a chart a task: KL in both directions, with 95 % bands, on one scale."""
    names = dict.fromkeys(task.name for run in runs for task in run.tasks if task.kl)
    charts = []
    for name in names:
        lines = _lines(runs, lambda run, name=name: _kl_lines(run, name))
        charts.append(Chart(name=f"kl-{name}", title=name, label="nats a token", lines=lines))
    return _on_one_scale(_drawn(*charts), within=(0, float("inf")))


def layer_charts(runs: Sequence[RunNumbers]) -> list[DotChart]:
    """Return the drift layer by layer at the last step measured."""
    last = {place: run.drift[-1].layers for place, run in enumerate(runs) if run.drift}
    rows = tuple(dict.fromkeys(layer.name for layers in last.values() for layer in layers))
    if not rows:
        return []
    dots = []
    for place, layers in last.items():
        found = {layer.name: layer.rms for layer in layers}
        dots.append((place, tuple(found.get(row) for row in rows)))
    label = "root mean square of D"
    return [DotChart(name="layers-rms", title="Layers", label=label, rows=rows, dots=tuple(dots))]


def _names(runs: Sequence[RunNumbers], role: str) -> list[str]:
    return list(dict.fromkeys(task.name for run in runs for task in run.tasks if task.role == role))


def _task(run: RunNumbers, role: str, name: str) -> TaskResult | None:
    return next((task for task in run.tasks if (task.role, task.name) == (role, name)), None)


def _lines(
    runs: Sequence[RunNumbers], make: Callable[[RunNumbers], Iterable[dict]]
) -> tuple[Line, ...]:
    found = [Line(run=place, **fields) for place, run in enumerate(runs) for fields in make(run)]
    return tuple(line for line in found if any(value is not None for value in line.values))


def _accuracy(task: TaskResult | None) -> Iterable[dict]:
    if task is not None:
        yield _marked(task.evaluations, [(each.accuracy, each.se) for each in task.evaluations])


def _reward(task: TaskResult | None) -> Iterable[dict]:
    if task is not None and any(each.reward != each.accuracy for each in task.evaluations):
        yield _marked(
            task.evaluations, [(each.reward, each.reward_se) for each in task.evaluations]
        )


def _kl_lines(run: RunNumbers, name: str) -> Iterable[dict]:
    for task in run.tasks:
        if task.name == name and task.kl:
            for direction, style in (("base_to_tuned", "solid"), ("tuned_to_base", "dashed")):
                found = [getattr(pair, direction) for pair in task.kl]
                pairs = [(known(each.kl), known(each.se)) for each in found]
                yield {"style": style, **_marked(task.kl, pairs)}


def _marked(
    at: Sequence[StepScore] | Sequence[KlPair], pairs: list[tuple[float | None, float | None]]
) -> dict:
    return {
        "steps": tuple(each.step for each in at),
        "values": tuple(value for value, _ in pairs),
        "errors": tuple(None if se is None else WIDE * se for _, se in pairs),
        "marked": True,
    }


def _of(name: str) -> Callable[[StepNumbers], float | None]:
    return lambda step: getattr(step, name)


def _progress(
    runs: Sequence[RunNumbers],
    value: Callable[[StepNumbers], float | None],
    style: str = "solid",
    errors: Callable[[StepNumbers], float | None] | None = None,
) -> tuple[Line, ...]:
    return _lines(
        runs,
        lambda run: [
            {
                "steps": tuple(step.step for step in run.progress),
                "values": tuple(value(step) for step in run.progress),
                "style": style,
                "errors": None if errors is None else tuple(map(errors, run.progress)),
            }
        ],
    )


def _drawn(*charts: Chart) -> list[Chart]:
    return [chart for chart in charts if chart.lines]


def _ratio_limits(lines: tuple[Line, ...]) -> tuple[float, float]:
    """Return limits around 1 that do not make rounding look like a difference."""
    away = [abs(value - 1) for line in lines for value in line.values if value is not None]
    reach = max(0.05, 1.2 * max(away, default=0))
    return 1 - reach, 1 + reach


def _on_one_scale(charts: list[Chart], within: tuple[float, float]) -> list[Chart]:
    ends = [end for chart in charts for line in chart.lines for end in _extremes(line)]
    if not ends:
        return charts
    low, high = max(within[0], min(ends)), min(within[1], max(ends))
    room = 0.05 * (high - low or 1)
    limits = (low - room, high + room)
    return [replace(chart, limits=limits) for chart in charts]


def _extremes(line: Line) -> Iterable[float]:
    for value, error in zip(line.values, line.errors or [None] * len(line.values), strict=True):
        if value is not None:
            yield value - (error or 0)
            yield value + (error or 0)
