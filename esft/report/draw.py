"""Charts drawn by matplotlib: SVG for the page, in its colours, and PNG beside it."""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esft.report.chart import Chart, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (3.5, 2.1)  # inches of a chart: four of them fill a page of 1200 points, one a phone
COLUMNS = 4  # charts side by side in a PNG, at most
STYLES = {"solid": "solid", "dashed": (0, (5, 3)), "dotted": (0, (1.5, 2.5))}  # dashes in points
STYLES["level"] = STYLES["dashed"]

MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖"}
"""Of the runs, so that colour is not all that tells them apart; matplotlib's and the page's."""


@dataclass(frozen=True, kw_only=True)
class Palette:
    """What a drawing is painted with; runs are told apart without red or green."""

    ink: str
    muted: str
    grid: str
    paper: str
    runs: tuple[str, ...]

    def run(self, number: int) -> str:
        """Return the colour of a run."""
        return self.runs[number % len(self.runs)]

    def named(self) -> dict[str, str]:
        """Return the colours by the names that the page's style has for them."""
        colours = {name: getattr(self, name) for name in ("ink", "muted", "grid", "paper")}
        return colours | {f"run-{number}": colour for number, colour in enumerate(self.runs)}


LIGHT = Palette(
    ink="#1b1f24",
    muted="#57606a",
    grid="#d8dde3",
    paper="#ffffff",
    runs=("#008deb", "#c17c15", "#581e67", "#ff3d8b", "#770d0d", "#2b00d6"),
)
DARK = Palette(
    ink="#e8ebef",
    muted="#a2abb5",
    grid="#363c44",
    paper="#15181c",
    runs=("#acd8f6", "#ae7013", "#a366ff", "#ffc8a3", "#3077a6", "#33ff00"),
)

_SETTINGS = {
    "font.family": ["DejaVu Sans", "sans-serif"],  # comes with matplotlib: the same everywhere
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "lines.scale_dashes": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "esft",  # the same chart makes the same bytes
    "text.parse_math": False,  # names may hold a dollar sign
}


def marker(number: int) -> str:
    """Return the marker of a run, as matplotlib names it."""
    return list(MARKERS)[number % len(MARKERS)]


def as_svg(chart: Chart) -> str:
    """Return a chart as an SVG element for a page that has the colours of `Palette.named`."""
    with _matplotlib():
        from matplotlib.figure import Figure

        figure = Figure(figsize=_size(chart), layout="constrained")
        _draw(figure.subplots(), chart)
        data = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(data, format="svg", transparent=True, metadata=nothing)
    text = data.getvalue().decode()
    # By name, so that one drawing serves light and dark. What groups are called, no one asks for,
    # and on a page of several drawings the names would not be unique.
    for name, colour in LIGHT.named().items():
        text = text.replace(colour, f"var(--{name})")
    return re.sub(r'<g id="[^"]*">', "<g>", text[text.index("<svg") :])


def as_png(charts: Sequence[Chart], keys: Sequence[Key]) -> bytes:
    """Return charts as one picture, with a legend."""
    with _matplotlib():
        from matplotlib.figure import Figure

        columns = min(COLUMNS, len(charts))
        rows = math.ceil(len(charts) / columns)
        width, height = max(_size(chart)[0] for chart in charts), _size(charts[0])[1]
        legend = 0.25 * len(keys) / columns + 0.2
        size = (width * columns, (height + 0.3) * rows + legend)
        figure = Figure(figsize=size, layout="constrained", facecolor=LIGHT.paper)
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, chart in zip(grid, charts, strict=False):
            _draw(axes, chart)
            title = textwrap.fill(chart.title, 40)
            axes.set_title(title, loc="left", color=LIGHT.ink, weight="bold", size=10)
        for axes in grid[len(charts) :]:
            axes.set_axis_off()
        if keys:
            _legend(figure, keys, columns)
        data = io.BytesIO()
        # 160 dots an inch: twice what a screen shows.
        figure.savefig(data, format="png", dpi=160, metadata={"Software": None})
    return data.getvalue()


@contextmanager
def _matplotlib() -> Iterator[None]:
    """Set matplotlib up for the block, whatever the user's own settings are."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script the font lacks
        yield


def _size(chart: Chart) -> tuple[float, float]:
    return (SIZE[0], 0.8 + 0.23 * len(chart.rows)) if chart.rows else SIZE


def _draw(axes: Axes, chart: Chart) -> None:
    draw = _draw_boxes if chart.boxes else _draw_dots if chart.rows else _draw_lines
    draw(axes, chart)
    axes.grid(color=LIGHT.grid)
    axes.tick_params(colors=LIGHT.muted, length=3)
    for spine in axes.spines.values():
        spine.set_color(LIGHT.muted)
    axes.xaxis.label.set_color(LIGHT.muted)
    axes.yaxis.label.set_color(LIGHT.muted)


def _draw_lines(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    _draw_level(axes, chart)
    for line in chart.lines:
        colour, values = LIGHT.run(line.run), np.array(line.values, dtype=float)  # None as NaN
        if line.errors is not None:
            errors = np.array(line.errors, dtype=float)
            low, high = values - errors, values + errors
            axes.fill_between(line.steps, low, high, color=colour, alpha=0.16, linewidth=0)
            if line.marked:
                axes.vlines(line.steps, low, high, color=colour, linewidth=1)
        lone = sum(value is not None for value in line.values) == 1
        axes.plot(
            line.steps,
            values,
            color=LIGHT.ink if line.thin else colour,
            linewidth=1 if line.thin else None,
            linestyle=STYLES[line.style],
            marker=marker(line.run) if line.marked or lone else None,
        )
    if chart.limits is not None:
        axes.set_ylim(*chart.limits)
    steps = [step for line in chart.lines for step in line.steps]
    if min(steps) == max(steps):
        axes.set_xlim(min(steps) - 0.5, max(steps) + 0.5)
    whole = all(isinstance(step, int) for step in steps)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=whole))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    if chart.percent:
        whole = axes.get_ylim()[1] > 0.5
        if whole:
            axes.set_yticks((0, 0.5, 1))
        decimals = 0 if whole else None  # as many as the ticks need
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=decimals, symbol=" %"))
    axes.set_xlabel(chart.across)
    axes.set_ylabel("" if chart.percent else chart.label)


def _draw_boxes(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import MaxNLocator

    _draw_level(axes, chart)
    for at, box in enumerate(chart.boxes):
        colour, count = LIGHT.run(box.run), len(box.values)
        if count:
            low, middle, high = np.percentile(box.values, (25, 50, 75))
            look = {"facecolor": colour, "alpha": 0.16, "linewidth": 0}
            axes.bar(at, high - low, 0.7, low, **look)
            axes.hlines(middle, at - 0.35, at + 0.35, color=colour, linewidth=1.4)
        # Side by side in their order, so that none hides another.
        places = at + np.linspace(-0.28, 0.28, count) if count > 1 else [at] * count
        dots = {"color": colour, "linestyle": "none", "marker": marker(box.run), "markersize": 3}
        axes.plot(places, box.values, **dots)
        look = {"color": LIGHT.ink, "fontsize": 7, "ha": "center", "va": "top"}
        axes.annotate(box.note, (at, 0.99), xycoords=("data", "axes fraction"), **look)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.2 * (high - low))  # room for the notes
    axes.set_xticks(range(len(chart.boxes)), [box.label for box in chart.boxes])
    axes.set_xlim(-0.6, len(chart.boxes) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_xlabel(chart.across)
    axes.set_ylabel(chart.label)


def _draw_level(axes: Axes, chart: Chart) -> None:
    if chart.level is not None:
        look = {"color": LIGHT.muted, "linewidth": 0.9, "linestyle": STYLES["level"]}
        axes.axhline(chart.level, **look)


def _draw_dots(axes: Axes, chart: Chart) -> None:
    for line in chart.lines:
        look = {"color": LIGHT.run(line.run), "marker": marker(line.run), "linestyle": "none"}
        axes.plot(np.array(line.values, dtype=float), line.steps, **look)
    # Of a long name the end: that is where layers differ.
    names = [row if len(row) <= 28 else f"…{row[-27:]}" for row in chart.rows]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(chart.rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(chart.label)


def _legend(figure: Figure, keys: Sequence[Key], columns: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = []
    for key in keys:
        colour = LIGHT.muted if key.run is None else LIGHT.run(key.run)
        if key.style == "band":
            handles.append(Patch(color=colour, alpha=0.25, label=key.text))
        else:
            symbol = None if key.run is None else marker(key.run)
            look = {"color": colour, "linestyle": STYLES[key.style], "marker": symbol}
            handles.append(Line2D([], [], label=key.text, **look))
    fitting = max(1, int(columns * 40 / (max(len(key.text) for key in keys) + 8)))
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=min(len(keys), fitting),
        frameon=False,
        labelcolor=LIGHT.ink,
    )
