"""The sections of a report: which charts stand together, and how they are to be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from esft.report.charts import (
    AnyChart,
    decay_charts,
    drift_charts,
    kl_charts,
    layer_charts,
    population_charts,
    prior_charts,
    target_charts,
)
from esft.report.numbers import RunNumbers


@dataclass(frozen=True, kw_only=True)
class Key:
    """A line of a legend, of a style of `Line` or "band"."""

    text: str
    run: int | None = None
    """Number of the run whose colour it explains; None for what all runs share."""
    style: str = "solid"


@dataclass(frozen=True, kw_only=True)
class Section:
    """Charts that stand together."""

    name: str
    title: str
    text: str
    charts: tuple[AnyChart, ...]
    keys: tuple[Key, ...]
    """Runs first, where there are several; then styles."""


_INTERVAL = Key(text="95 % interval", style="band")

_Charts = Callable[[Sequence[RunNumbers]], Sequence[AnyChart]]

_PLANS: tuple[tuple[str, str, str, _Charts, tuple[Key, ...]], ...] = (
    (
        "target",
        "Target task",
        "The task the model was tuned on, on rows it was not tuned on. Step 0 is the base.",
        target_charts,
        (_INTERVAL,),
    ),
    (
        "prior",
        "Prior tasks",
        "What the model could do before, task by task, on one scale.",
        prior_charts,
        (_INTERVAL,),
    ),
    (
        "drift",
        "Drift",
        "How far the weights are from the base weights. A ratio near 1 says that updates land as "
        "they should, not that anything is learned.",
        drift_charts,
        (
            Key(text="measured"),
            Key(text="forecast", style="dashed"),
            Key(text="forecast without decay", style="dotted"),
        ),
    ),
    (
        "decay",
        "What the decay did",
        "The drift against the forecast of the same updates without anchored weight decay.",
        decay_charts,
        (),
    ),
    (
        "kl",
        "KL divergence",
        "How far the tuned model's next-token distribution is from that of the base, on prompts "
        "of each task.",
        kl_charts,
        (
            Key(text="KL(base || tuned), on the base's continuations"),
            Key(text="KL(tuned || base), on the tuned model's", style="dashed"),
            _INTERVAL,
        ),
    ),
    (
        "rewards",
        "Rewards of the population",
        "What the perturbed models of each step were rewarded with, on training rows.",
        population_charts,
        (
            Key(text="mean of the members"),
            Key(text="best member", style="dashed"),
            Key(text="1 standard deviation of the members", style="band"),
        ),
    ),
    (
        "layers",
        "Drift by layer",
        "Root mean square of the drift of each layer's weights, at the last step measured.",
        layer_charts,
        (),
    ),
)

NAMES = tuple(name for name, *_ in _PLANS)
"""Of the sections there can be, and of their pictures."""


def sections_of(runs: Sequence[RunNumbers]) -> list[Section]:
    """Return the sections that have something to show."""
    sections = []
    for name, title, text, make, styles in _PLANS:
        if charts := tuple(make(runs)):
            shown = sorted({run for chart in charts for run in chart.runs})
            keys = [Key(text=runs[run].name, run=run) for run in shown] if len(runs) > 1 else []
            keys += styles
            sections.append(
                Section(name=name, title=title, text=text, charts=charts, keys=tuple(keys))
            )
    return sections
