"""The sections of a report: which charts stand together, and how they are to be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from esft.report.chart import AnyChart, DotChart
from esft.report.charts import (
    decay_charts,
    drift_charts,
    kl_charts,
    layer_charts,
    population_charts,
    reward_charts,
    task_charts,
)
from esft.report.numbers import RunNumbers


@dataclass(frozen=True, kw_only=True)
class Key:
    """A line of a legend."""

    text: str
    run: int | None = None
    """Place of the run whose colour it explains; None for what all runs share."""
    style: str = "solid"
    """ "solid", "dashed", "dotted" or "band"."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Charts that stand together."""

    name: str
    title: str
    text: str
    charts: tuple[AnyChart, ...]
    keys: tuple[Key, ...]
    """Runs first, where there are several; then styles."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A section before it is known whether there is something to show."""

    name: str
    title: str
    text: str
    charts: Callable[[Sequence[RunNumbers]], Sequence[AnyChart]]
    styles: tuple[Key, ...] = ()


def _target_charts(runs: Sequence[RunNumbers]) -> list[AnyChart]:
    return [*task_charts(runs, "target"), *reward_charts(runs)]


def _prior_charts(runs: Sequence[RunNumbers]) -> list[AnyChart]:
    return [*task_charts(runs, "prior")]


_INTERVAL = Key(text="95 % interval", style="band")

_PLANS = (
    _Plan(
        name="target",
        title="Target task",
        text="The task the model was tuned on, on rows it was not tuned on. Step 0 is the base.",
        charts=_target_charts,
        styles=(_INTERVAL,),
    ),
    _Plan(
        name="prior",
        title="Prior tasks",
        text="What the model could do before, task by task, on one scale.",
        charts=_prior_charts,
        styles=(_INTERVAL,),
    ),
    _Plan(
        name="drift",
        title="Drift",
        text="How far the weights are from the base weights. A ratio near 1 says that updates "
        "land as they should, not that anything is learned.",
        charts=drift_charts,
        styles=(
            Key(text="measured"),
            Key(text="forecast", style="dashed"),
            Key(text="forecast without decay", style="dotted"),
        ),
    ),
    _Plan(
        name="decay",
        title="What the decay did",
        text="The drift against the forecast of the same updates without anchored weight decay.",
        charts=decay_charts,
    ),
    _Plan(
        name="kl",
        title="KL divergence",
        text="How far the tuned model's next-token distribution is from that of the base, on "
        "prompts of each task.",
        charts=kl_charts,
        styles=(
            Key(text="KL(base || tuned), on the base's continuations"),
            Key(text="KL(tuned || base), on the tuned model's", style="dashed"),
            _INTERVAL,
        ),
    ),
    _Plan(
        name="rewards",
        title="Rewards of the population",
        text="What the perturbed models of each step were rewarded with, on training rows.",
        charts=population_charts,
        styles=(
            Key(text="mean of the members"),
            Key(text="best member", style="dashed"),
            Key(text="1 standard deviation of the members", style="band"),
        ),
    ),
    _Plan(
        name="layers",
        title="Drift by layer",
        text="Root mean square of the drift of each layer's weights, at the last step measured.",
        charts=layer_charts,
    ),
)

NAMES = tuple(plan.name for plan in _PLANS)
"""Of the sections there can be, and of their pictures."""


def sections_of(runs: Sequence[RunNumbers]) -> list[Section]:
    """Return the sections that have something to show."""
    found = [(plan, tuple(plan.charts(runs))) for plan in _PLANS]
    return [
        Section(
            name=plan.name,
            title=plan.title,
            text=plan.text,
            charts=charts,
            keys=(*_run_keys(runs, charts), *plan.styles),
        )
        for plan, charts in found
        if charts
    ]


def _run_keys(runs: Sequence[RunNumbers], charts: Sequence[AnyChart]) -> list[Key]:
    """Return a key for each run that the charts show; none where there is but one run."""
    if len(runs) == 1:
        return []
    shown = {place for chart in charts for place in _places(chart)}
    return [Key(text=runs[place].name, run=place) for place in sorted(shown)]


def _places(chart: AnyChart) -> list[int]:
    if isinstance(chart, DotChart):
        return [place for place, _ in chart.dots]
    return [line.run for line in chart.lines]
