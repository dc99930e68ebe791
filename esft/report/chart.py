"""What a chart shows, before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esft.report.numbers import RunNumbers


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart; None is a gap."""

    run: int
    """Place of its run in the report: what it is coloured by."""
    steps: tuple[int, ...]
    values: tuple[float | None, ...]
    style: str = "solid"
    """ "solid", "dashed" or "dotted"."""
    errors: tuple[float | None, ...] | None = None
    """Half the height of the band around it; None draws none."""
    marked: bool = False
    """Whether every point has its run's marker."""
    thin: bool = False
    """Whether it is a thin line in the colour of text: seen on top of a line that it follows."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over the steps of a run."""

    name: str
    title: str
    label: str
    """Of the vertical axis."""
    lines: tuple[Line, ...]
    limits: tuple[float, float] | None = None
    """Of the vertical axis; None takes those of the lines."""
    level: float | None = None
    """Where a thin line lies across."""


@dataclass(frozen=True, kw_only=True)
class DotChart:
    """A row a layer, a dot a run."""

    name: str
    title: str
    label: str
    """Of the horizontal axis."""
    rows: tuple[str, ...]
    dots: tuple[tuple[int, tuple[float | None, ...]], ...]
    """(place of the run, a value a row)."""


AnyChart = Chart | DotChart


def described(chart: AnyChart, runs: Sequence[RunNumbers]) -> str:
    """Return what a chart shows in words: the ends of every line."""
    if isinstance(chart, DotChart):
        parts = [_ends(runs[place].name, chart.rows, values) for place, values in chart.dots]
        return f"{chart.title}, {chart.label}, a row a layer. {' '.join(parts)}"
    parts = []
    for line in chart.lines:
        style = "" if line.style == "solid" else f" ({line.style})"
        places = [f"step {step}" for step in line.steps]
        parts.append(_ends(runs[line.run].name + style, places, line.values))
    return f"{chart.title}, {chart.label} by step. {' '.join(parts)}"


def _ends(name: str, places: Sequence[str], values: Sequence[float | None]) -> str:
    known = [(place, each) for place, each in zip(places, values, strict=True) if each is not None]
    if not known:
        return f"{name}: no value."
    ends = dict.fromkeys((known[0], known[-1]))
    text = " to ".join(f"{value:.4g} at {place}" for place, value in ends)
    return f"{name}: {text}."
