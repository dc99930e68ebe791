"""Charts drawn by matplotlib: SVG for the page, PNG beside it."""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from esft.report.chart import AnyChart, Chart, DotChart, Line
from esft.report.palette import LIGHT, STYLES, TOKENS, Palette, marker, with_variables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from esft.report.sections import Key

SIZE = (5.2, 3.3)
"""Inches of a chart; the page shows it at about 72 points an inch, as wide as a phone."""

ROW = 0.23
"""Inches of a row of a DotChart."""

COLUMNS = 3
"""Charts side by side in a PNG, at most."""

DPI = 160
"""Dots an inch of a PNG: twice what a screen shows it at."""

_SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "lines.scale_dashes": False,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may hold a dollar sign
}


def as_svg(chart: AnyChart, alt: str) -> str:
    """Return a chart as an SVG element that takes its colours from the page.

    Args:
        chart: what to draw.
        alt: what it shows, in words.
    """
    with _matplotlib(salt=chart.name):
        from matplotlib.figure import Figure

        figure = Figure(figsize=_size(chart), layout="constrained")
        _draw(figure.subplots(), chart, TOKENS)
        text = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return with_variables(_element(text.getvalue(), alt))


def as_png(charts: Sequence[AnyChart], keys: Sequence[Key]) -> bytes:
    """Return charts as one picture, with a legend."""
    with _matplotlib(salt=""):
        from matplotlib.figure import Figure

        columns = min(COLUMNS, len(charts))
        rows = math.ceil(len(charts) / columns)
        width, height = max(_size(chart)[0] for chart in charts), _size(charts[0])[1]
        legend = 0.25 * len(keys) / columns + 0.2
        size = (width * columns, (height + 0.3) * rows + legend)
        figure = Figure(figsize=size, layout="constrained", facecolor=LIGHT.paper)
        places = figure.subplots(rows, columns, squeeze=False).flat
        for axes, chart in zip(places, charts, strict=False):
            _draw(axes, chart, LIGHT)
            title = textwrap.fill(chart.title, 44)
            axes.set_title(title, loc="left", color=LIGHT.ink, weight="bold", size=12)
        for axes in list(places)[len(charts) :]:
            axes.set_axis_off()
        _legend(figure, keys, columns)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=DPI, metadata={"Software": None})
    return data.getvalue()


@contextmanager
def _matplotlib(salt: str) -> Iterator[None]:
    """Set matplotlib up for the block, whatever the user's own settings are."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS | {"svg.hashsalt": salt})
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script the font lacks
        yield


def _size(chart: AnyChart) -> tuple[float, float]:
    width, height = SIZE
    return (width, 0.8 + ROW * len(chart.rows)) if isinstance(chart, DotChart) else (width, height)


def _draw(axes: Axes, chart: AnyChart, palette: Palette) -> None:
    if isinstance(chart, DotChart):
        _draw_dots(axes, chart, palette)
    else:
        _draw_lines(axes, chart, palette)
    axes.grid(color=palette.grid)
    axes.tick_params(colors=palette.muted, length=3)
    for spine in axes.spines.values():
        spine.set_color(palette.muted)
    axes.xaxis.label.set_color(palette.muted)
    axes.yaxis.label.set_color(palette.muted)


def _draw_lines(axes: Axes, chart: Chart, palette: Palette) -> None:
    from matplotlib.ticker import MaxNLocator

    if chart.level is not None:
        axes.axhline(chart.level, color=palette.muted, linewidth=0.8)
    for line in chart.lines:
        _draw_line(axes, line, palette)
    if chart.limits is not None:
        axes.set_ylim(*chart.limits)
    steps = [step for line in chart.lines for step in line.steps]
    if min(steps) == max(steps):
        axes.set_xlim(min(steps) - 1, max(steps) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("step")
    axes.set_ylabel(chart.label)


def _draw_line(axes: Axes, line: Line, palette: Palette) -> None:
    colour, values = palette.run(line.run), _with_gaps(line.values)
    if line.errors is not None:
        _draw_errors(axes, line, colour)
    lone = sum(value is not None for value in line.values) == 1
    axes.plot(
        line.steps,
        values,
        color=palette.ink if line.thin else colour,
        linewidth=1 if line.thin else None,
        linestyle=_dashes(line.style),
        marker=marker(line.run) if line.marked or lone else None,
    )


def _draw_errors(axes: Axes, line: Line, colour: str) -> None:
    values, errors = _with_gaps(line.values), _with_gaps(line.errors)
    pairs = list(zip(values, errors, strict=True))
    low, high = [value - error for value, error in pairs], [value + error for value, error in pairs]
    axes.fill_between(line.steps, low, high, color=colour, alpha=0.16, linewidth=0)
    if line.marked:
        axes.vlines(line.steps, low, high, color=colour, linewidth=1)


def _draw_dots(axes: Axes, chart: DotChart, palette: Palette) -> None:
    heights = range(len(chart.rows))
    for place, values in chart.dots:
        axes.plot(
            _with_gaps(values),
            heights,
            color=palette.run(place),
            marker=marker(place),
            linestyle="none",
        )
    axes.set_yticks(heights, [_ending(row) for row in chart.rows])
    axes.set_ylim(len(chart.rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(chart.label)


def _ending(name: str) -> str:
    """Return a layer's name, of a long one the end: that is where layers differ."""
    return name if len(name) <= 28 else f"…{name[-27:]}"


def _with_gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _dashes(style: str) -> str | tuple[float, tuple[float, ...]]:
    lengths = tuple(map(float, STYLES[style].split()))
    return (0, lengths) if lengths else "solid"


def _legend(figure: Figure, keys: Sequence[Key], columns: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = []
    for key in keys:
        colour = LIGHT.muted if key.run is None else LIGHT.run(key.run)
        if key.style == "band":
            handles.append(Patch(color=colour, alpha=0.25, label=key.text))
            continue
        symbol = None if key.run is None else marker(key.run)
        style = _dashes(key.style)
        handles.append(Line2D([], [], color=colour, linestyle=style, marker=symbol, label=key.text))
    if handles:
        longest = max(len(key.text) for key in keys)
        fitting = max(1, int(columns * 56 / (longest + 8)))
        figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=min(len(keys), fitting),
            frameon=False,
            labelcolor=LIGHT.ink,
        )


def _element(svg: str, alt: str) -> str:
    """Return the svg element alone, without what would clash with others on the page."""
    from html import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r' id="[a-zA-Z0-9.]+_[0-9_]+"', "", svg)
    svg = re.sub(r"font: (?:(\w+) )?([0-9.]+)px [^;\"]*", r"font-size: \2px", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    opening = re.match(r"<svg[^>]*>", svg)
    box = re.search(r'viewBox="[^"]*"', opening[0])
    head = f'<svg class="plot" role="img" {box[0]} xmlns:xlink="http://www.w3.org/1999/xlink">'
    title = f"<title>{escape(alt)}</title>"
    return re.sub(r">\s+<", "><", head + title + svg[opening.end() :].strip())
