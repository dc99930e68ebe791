"""The page of a report: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from esft.report.chart import DotChart, described
from esft.report.draw import as_svg
from esft.report.numbers import RunNumbers
from esft.report.palette import DARK, LIGHT, STYLES, marker, variables
from esft.report.sections import Key, Section
from esft.report.tables import (
    drift_table,
    kl_table,
    run_name,
    runs_table,
    scores_table,
    settings_table,
    verdict_table,
)

_SHAPES = {
    "o": '<circle cx="16" cy="6" r="4"/>',
    "s": '<path d="M12 2h8v8h-8z"/>',
    "^": '<path d="M16 1l5 9h-10z"/>',
    "D": '<path d="M16 1l5 5-5 5-5-5z"/>',
    "v": '<path d="M16 11l5-9h-10z"/>',
    "P": '<path d="M14 1h4v3h3v4h-3v3h-4v-3h-3v-4h3z"/>',
    "X": '<path d="M12 2l8 8m0-8l-8 8" stroke="currentColor" stroke-width="3"/>',
}
"""The markers of matplotlib, for the legends of the page."""


def make_page(
    runs: Sequence[RunNumbers], sections: Sequence[Section], pictures: Mapping[str, str]
) -> str:
    """Return the page.

    Args:
        runs: one or more.
        sections: with something to show.
        pictures: name of a section to the address of its PNG, seen from the page.
    """
    title = " and ".join(run.name for run in runs) if len(runs) < 3 else f"{len(runs)} runs"
    parts = [_section(runs, section, pictures[section.name]) for section in sections]
    settings = settings_table(runs)
    if len(runs) == 1:
        settings = _folded("All settings", settings)
    body = [
        f"<h1>{escape(title)}</h1>",
        _notes(runs),
        _block("Task by task", verdict_table(runs) or "<p>No task was evaluated yet.</p>"),
        _block("The runs" if len(runs) > 1 else "The run", runs_table(runs) + settings),
        *parts,
        _folded("Every evaluation", scores_table(runs)),
        "<footer>Accuracies are fractions. Bands and intervals hold the truth in 95 % of cases; "
        "± is one standard error. The same numbers: <code>esft report --json</code>.</footer>",
    ]
    return (
        _HEAD.format(title=escape(title), style=_style()) + "\n".join(body) + "\n</body></html>\n"
    )


_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark">
<title>{title} - esft report</title>
<style>{style}</style></head>
<body>
"""


def _style() -> str:
    runs = "".join(f".run-{place} {{ --own: var(--run-{place}); }}" for place in range(6))
    return (
        f":root {{ {variables(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} }} }}\n"
        f"{runs}\n{(Path(__file__).parent / 'page.css').read_text(encoding='utf-8')}"
    )


def _notes(runs: Sequence[RunNumbers]) -> str:
    """Return what the numbers' reader should know, each note once, with the runs it is of."""
    found: dict[str, list[str]] = {}
    for place, run in enumerate(runs):
        for note in run.notes:
            found.setdefault(note, []).append(run_name(runs, place))
    lines = [
        f"<li>{escape(note)}{' ' + ', '.join(names) if len(runs) > 1 else ''}</li>"
        for note, names in found.items()
    ]
    return f'<ul class="notes">{"".join(lines)}</ul>' if lines else ""


def _block(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _section(runs: Sequence[RunNumbers], section: Section, picture: str) -> str:
    charts = []
    for chart in section.charts:
        kind = ' class="tall"' if isinstance(chart, DotChart) else ""
        drawing = as_svg(chart, described(chart, runs))
        heading = f"<figcaption>{escape(chart.title)}</figcaption>"
        charts.append(f"<figure{kind}>{heading}{drawing}</figure>")
    content = (
        f"<p>{escape(section.text)}</p>{_legend(section.keys)}"
        f'<div class="charts">{"".join(charts)}</div>{_below(runs, section.name)}'
        f'<p class="picture"><a href="{escape(picture)}">PNG: {escape(section.title)}</a></p>'
    )
    return _block(section.title, content)


def _below(runs: Sequence[RunNumbers], name: str) -> str:
    if name == "drift":
        return _folded("Drift measured", drift_table(runs))
    return _folded("Every estimate", kl_table(runs)) if name == "kl" else ""


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>" if content else ""


def _legend(keys: Sequence[Key]) -> str:
    items = "".join(f"<li>{_sample(key)}{escape(key.text)}</li>" for key in keys)
    return f'<ul class="legend">{items}</ul>' if items else ""


def _sample(key: Key) -> str:
    own = "" if key.run is None else f" run-{key.run % 6}"
    if key.style == "band":
        inside = '<rect width="32" height="12" opacity="0.25"/>'
    else:
        dashes = f' stroke-dasharray="{STYLES[key.style]}"' if STYLES[key.style] else ""
        inside = f'<path d="M0 6h32" stroke="currentColor" stroke-width="2"{dashes}/>'
        inside += "" if key.run is None else _SHAPES[marker(key.run)]
    box = 'width="32" height="12" viewBox="0 0 32 12"'
    return f'<svg class="key{own}" {box} aria-hidden="true" fill="currentColor">{inside}</svg>'
