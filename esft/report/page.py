"""The page of a report: one HTML file that needs nothing else."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from esft.evals.results import known
from esft.report.charts import AnyChart, DotChart
from esft.report.draw import DARK, LIGHT, MARKERS, as_svg, marker
from esft.report.numbers import RunNumbers
from esft.report.sections import Section

UNKNOWN = "–"

VERDICTS = {
    "unchanged": "= unchanged",
    "improved": "▲ improved",
    "drifting": "↘ drifting",
    "recovered": "↺ recovered",
    "lost": "▼ lost",
    "not enough": "? not enough to tell",
}
"""A verdict with a sign, so that colour is not all that tells it."""


def make_page(
    runs: Sequence[RunNumbers], sections: Sequence[Section], pictures: Mapping[str, str]
) -> str:
    """Return the page; `pictures` has the address of each section's PNG, seen from the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"number": _number, "known": known}
    names = [run.name for run in runs]
    tasks = [(task, number) for number, run in enumerate(runs) for task in run.tasks]
    order = list(dict.fromkeys((task.role, task.name) for task, _ in tasks))
    order.sort(key=lambda key: key[0] != "target")
    return pages.get_template("page.html.jinja").render(
        title=" and ".join(names) if len(runs) < 3 else f"{len(runs)} runs",
        runs=list(enumerate(runs)),
        several=len(runs) > 1,
        notes=_notes(runs),
        tasks=sorted(tasks, key=lambda task: order.index((task[0].role, task[0].name))),
        tasks_by_run=tasks,
        settings=_settings(runs),
        sections=sections,
        pictures=pictures,
        drawn=lambda chart: _drawn(chart, names),
        palettes=[asdict(LIGHT), asdict(DARK)],
        symbol=lambda number: MARKERS[marker(number)],
        verdicts=VERDICTS,
    )


def _number(value: float | None, form: str = ".3f") -> str:
    """Return a number, or a dash where it is not known."""
    return UNKNOWN if value is None else format(value, form).replace("-", "−")


def _drawn(chart: AnyChart, names: Sequence[str]) -> dict[str, object]:
    """Return a chart as addresses that hold the drawings, and what they show in words."""
    light, dark = (
        f"data:image/svg+xml;base64,{b64encode(as_svg(chart, palette)).decode()}"
        for palette in (LIGHT, DARK)
    )
    words, tall = chart.described(names), isinstance(chart, DotChart)
    return {"light": light, "dark": dark, "words": words, "tall": tall}


def _notes(runs: Sequence[RunNumbers]) -> dict[str, list[int]]:
    """Return what the numbers' reader should know, each note once, with the runs it is of."""
    notes: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        for note in run.notes:
            notes.setdefault(note, []).append(number)
    return notes


def _settings(runs: Sequence[RunNumbers]) -> list[tuple[str, list[str]]]:
    """Return the settings: all of a single run, of several those in which they differ."""
    columns = [
        {"base": run.base, "dtype": run.dtype, "device": run.device} | run.settings for run in runs
    ]
    names = dict.fromkeys(name for settings in columns for name in settings if name != "run.dir")
    rows = [(name, [_setting(settings.get(name)) for settings in columns]) for name in names]
    return [(name, row) for name, row in rows if len(runs) == 1 or len(set(row)) > 1]


def _setting(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
