"""Which charts a report has: from the numbers of runs to the lines of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from esft.evals.results import KlPair, StepScore, TaskResult, known
from esft.report.numbers import RunNumbers

WIDE = 1.96
"""Standard errors on either side that hold the truth in 95 % of cases."""

Values = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart, coloured by the number of its run; None is a gap."""

    run: int
    steps: tuple[int, ...]
    values: Values
    style: str = "solid"
    """ "solid", "dashed" or "dotted"."""
    errors: Values | None = None
    """Half the height of the band around it; None draws none."""
    marked: bool = False
    """With its run's marker at every point."""
    thin: bool = False
    """In the colour of text: seen on top of a line that it follows."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over the steps of a run."""

    title: str
    label: str
    """Of the vertical axis."""
    lines: tuple[Line, ...]
    limits: tuple[float, float] | None = None
    """Of the vertical axis; None takes those of the lines."""
    level: float | None = None
    """Where a thin line lies across."""

    @property
    def runs(self) -> list[int]:
        """Numbers of the runs shown."""
        return sorted({line.run for line in self.lines})

    def described(self, names: Sequence[str]) -> str:
        """Return what it shows in words, the ends of every line; `names` are those of the runs."""
        parts = []
        for line in self.lines:
            style = "" if line.style == "solid" else f" ({line.style})"
            steps = [f"step {step}" for step in line.steps]
            parts.append(_ends(names[line.run] + style, steps, line.values))
        return f"{self.title}, {self.label} by step. {' '.join(parts)}"


@dataclass(frozen=True, kw_only=True)
class DotChart:
    """A row a layer, a dot a run."""

    title: str
    label: str
    """Of the horizontal axis."""
    rows: tuple[str, ...]
    dots: dict[int, Values]
    """Number of a run to a value a row."""

    @property
    def runs(self) -> list[int]:
        """Numbers of the runs shown."""
        return sorted(self.dots)

    def described(self, names: Sequence[str]) -> str:
        """Return what it shows in words: the first and the last row of every run."""
        parts = [_ends(names[run], self.rows, values) for run, values in self.dots.items()]
        return f"{self.title}, {self.label}, a row a layer. {' '.join(parts)}"


AnyChart = Chart | DotChart


def _ends(name: str, labels: Sequence[str], values: Values) -> str:
    given = [
        (label, value) for label, value in zip(labels, values, strict=True) if value is not None
    ]
    if not given:
        return f"{name}: no value."
    ends = dict.fromkeys((given[0], given[-1]))
    return f"{name}: {' to '.join(f'{value:.4g} at {label}' for label, value in ends)}."


def target_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return a chart a target, and one of its reward where that is something else."""
    rewards = [
        Chart(
            title=f"{name}: reward",
            label="mean holdout reward",
            lines=tuple(
                _marked(number, task.evaluations, lambda score: (score.reward, score.reward_se))
                for number, task in tasks
                if any(score.reward != score.accuracy for score in task.evaluations)
            ),
        )
        for name, tasks in _by_name(runs, lambda task: task.role == "target").items()
    ]
    return [*_task_charts(runs, "target"), *_drawn(rewards)]


def prior_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return a chart a prior task, on one scale."""
    return _task_charts(runs, "prior")


def drift_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return ||D|| beside its forecasts, with and without decay, and their ratio."""
    lengths = [*_progress(runs, "drift"), *_progress(runs, "free", style="dotted")]
    lengths += _progress(runs, "forecast", style="dashed", thin=True)
    ratio = _progress(runs, "ratio")
    # Limits around 1 that do not make rounding look like a difference.
    away = [abs(value - 1) for line in ratio for value in line.values if value is not None]
    reach = max(0.05, 1.2 * max(away, default=0))
    drift = Chart(title="Drift", label="||D||", lines=tuple(lengths))
    over = Chart(title="Drift over forecast", label="||D|| / forecast", lines=tuple(ratio), level=1)
    return _drawn([drift, replace(over, limits=(1 - reach, 1 + reach))])


def decay_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return what the decay left of the drift that was to be expected without it."""
    title, label = "What the decay left of the drift", "||D|| / forecast without decay"
    lines = tuple(_progress(runs, "left"))
    return _drawn([Chart(title=title, label=label, lines=lines, limits=(0, 1.1), level=1)])


def population_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return rewards of the population, how far its members lie apart, and its right answers."""
    rewards = [*_progress(runs, "reward_mean", errors="reward_sd")]
    rewards += _progress(runs, "reward_best", style="dashed")
    spread = tuple(_progress(runs, "reward_sd"))
    right = tuple(_progress(runs, "correct"))
    return _drawn(
        [
            Chart(title="Reward", label="reward", lines=tuple(rewards)),
            Chart(title="Spread of the members", label="standard deviation", lines=spread),
            Chart(title="Right answers on training rows", label="share", lines=right),
        ]
    )


def kl_charts(runs: Sequence[RunNumbers]) -> list[Chart]:
    """Return a chart a task: KL in both directions, with 95 % bands, on one scale."""

    def estimate(direction: str, pair: KlPair) -> tuple[float | None, float | None]:
        kl = getattr(pair, direction)
        return known(kl.kl), known(kl.se)

    charts = [
        Chart(
            title=name,
            label="nats a token",
            lines=tuple(
                _marked(number, task.kl, partial(estimate, direction), style)
                for direction, style in (("base_to_tuned", "solid"), ("tuned_to_base", "dashed"))
                for number, task in tasks
            ),
        )
        for name, tasks in _by_name(runs, lambda task: bool(task.kl)).items()
    ]
    return _on_one_scale(_drawn(charts), 0, float("inf"))


def layer_charts(runs: Sequence[RunNumbers]) -> list[DotChart]:
    """Return the drift layer by layer at the last step measured."""
    last = {number: run.drift[-1].layers for number, run in enumerate(runs) if run.drift}
    rows = tuple(dict.fromkeys(layer.name for layers in last.values() for layer in layers))
    dots = {}
    for number, layers in last.items():
        rms = {layer.name: layer.rms for layer in layers}
        dots[number] = tuple(rms.get(row) for row in rows)
    label = "root mean square of D"
    return [DotChart(title="Layers", label=label, rows=rows, dots=dots)] if rows else []


def _task_charts(runs: Sequence[RunNumbers], role: str) -> list[Chart]:
    """Return a chart a task of a role: accuracy with 95 % bands, on one scale for all tasks."""
    charts = [
        Chart(
            title=name,
            label="accuracy",
            lines=tuple(
                _marked(number, task.evaluations, lambda score: (score.accuracy, score.se))
                for number, task in tasks
            ),
        )
        for name, tasks in _by_name(runs, lambda task: task.role == role).items()
    ]
    return _on_one_scale(_drawn(charts), 0, 1)


def _by_name(
    runs: Sequence[RunNumbers], shown: Callable[[TaskResult], bool]
) -> dict[str, list[tuple[int, TaskResult]]]:
    tasks: dict[str, list[tuple[int, TaskResult]]] = {}
    for number, run in enumerate(runs):
        for task in run.tasks:
            if shown(task):
                tasks.setdefault(task.name, []).append((number, task))
    return tasks


def _marked(
    run: int,
    points: Sequence[StepScore] | Sequence[KlPair],
    value_and_error: Callable[..., tuple[float | None, float | None]],
    style: str = "solid",
) -> Line:
    pairs = [value_and_error(point) for point in points]
    return Line(
        run=run,
        steps=tuple(point.step for point in points),
        values=tuple(value for value, _ in pairs),
        errors=tuple(None if error is None else WIDE * error for _, error in pairs),
        style=style,
        marked=True,
    )


def _progress(
    runs: Sequence[RunNumbers], name: str, errors: str | None = None, **style: object
) -> list[Line]:
    """Return a line a run of what `StepNumbers` has under `name`."""
    return [
        Line(
            run=number,
            steps=tuple(step.step for step in run.progress),
            values=tuple(getattr(step, name) for step in run.progress),
            errors=None if errors is None else tuple(getattr(s, errors) for s in run.progress),
            **style,
        )
        for number, run in enumerate(runs)
    ]


def _drawn(charts: Iterable[Chart]) -> list[Chart]:
    """Return the charts that have a value to show, without lines that have none."""
    drawn = []
    for chart in charts:
        lines = [line for line in chart.lines if any(value is not None for value in line.values)]
        if lines:
            drawn.append(replace(chart, lines=tuple(lines)))
    return drawn


def _on_one_scale(charts: list[Chart], lowest: float, highest: float) -> list[Chart]:
    ends = [
        value + sign * (error or 0)
        for chart in charts
        for line in chart.lines
        for value, error in zip(line.values, line.errors, strict=True)
        if value is not None
        for sign in (-1, 1)
    ]
    if not ends:
        return charts
    low, high = max(lowest, min(ends)), min(highest, max(ends))
    room = 0.05 * (high - low or 1)
    return [replace(chart, limits=(low - room, high + room)) for chart in charts]
