"""A report on disk: one page that needs nothing else, and a picture a section beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from esft.evals.summary import says_right, signed
from esft.files import write_whole, writing
from esft.report.chart import Section
from esft.report.charts import NAMES, sections_of
from esft.report.draw import DARK, LIGHT, MARKERS, as_png, as_svg, marker
from esft.report.numbers import RunNumbers
from esft.report.read import named_apart, read_run
from esft.report.summary import (
    about,
    comparison_of,
    frontier_of,
    percent,
    summary_of,
    title_of,
    typeset,
)
from esft.rollout.typed import known


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written, with all its numbers."""

    format: int = 2  # another number is another form
    page: Path
    pictures: tuple[Path, ...]
    runs: tuple[RunNumbers, ...]


def write_report(paths: Sequence[Path], out: Path | None = None) -> Report:
    """Write the page of one or several runs, and its pictures.

    Args:
        paths: folders of runs; one that is named twice counts once.
        out: folder of page and pictures. None takes, for one run, report.html in its folder with
            the pictures in report/ beside it; for several, the folder report/.

    Raises:
        RunError: if a folder is not a run, or the files cannot be written.
    """
    folders = list({path.resolve(): path for path in paths}.values())
    runs = named_apart([read_run(path) for path in folders])
    folder = Path("report") if out is None else out
    page = folder / "report.html"
    if out is None and len(folders) == 1:
        page, folder = folders[0] / "report.html", folders[0] / "report"
    sections = sections_of(runs)
    pictures = {section.name: folder / f"{section.name}.png" for section in sections}
    for section in sections:
        write_whole(pictures[section.name], as_png(section.charts, section.keys))
    for name in NAMES:
        if name not in pictures:  # of an earlier report
            with writing(folder):
                (folder / f"{name}.png").unlink(missing_ok=True)
    addresses = {name: file.relative_to(page.parent).as_posix() for name, file in pictures.items()}
    write_whole(page, make_page(runs, sections, addresses))
    return Report(page=page, pictures=tuple(pictures.values()), runs=tuple(runs))


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
    pages.filters |= {"number": _number, "known": known, "percent": percent, "cut": _cut}
    pages.filters |= {"svg": as_svg, "points": lambda share: typeset(signed(100 * share, ".1f"))}
    tasks = [(task, number) for number, run in enumerate(runs) for task in run.tasks]
    order = list(dict.fromkeys((task.role, task.name) for task, _ in tasks))
    order.sort(key=lambda key: key[0] != "target")
    notes: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        for note in run.notes:
            notes.setdefault(note, []).append(number)
    return pages.get_template("page.html.jinja").render(
        title=title_of(runs),
        comparison=comparison_of(runs),
        on_frontier=frontier_of(runs),
        names=[run.label for run in runs],
        runs=[(number, run, summary_of(run)) for number, run in enumerate(runs)],
        several=len(runs) > 1,
        alike=len({about(run) for run in runs}) == 1,
        about=about,
        says_right=says_right,
        notes=notes,
        tasks=sorted(tasks, key=lambda task: order.index((task[0].role, task[0].name))),
        tasks_by_run=tasks,
        settings=_settings(runs),
        sections={section.name: section for section in sections},
        pictures=pictures,
        light=LIGHT.named(),
        dark=DARK.named(),
        symbol=lambda number: MARKERS[marker(number)],
    )


def _number(value: float | None, form: str = ".3f") -> str:
    """Return a number, or a dash where it is not known."""
    return "–" if known(value) is None else format(value, form).replace("-", "−")


def _cut(text: str, length: int = 240, lines: int = 6) -> str | None:
    """Return the beginning of a long text; None for one that need not be cut."""
    part = "\n".join(text.split("\n")[:lines])[:length].rstrip()
    return part if len(text) > len(part) + 40 else None


def _settings(runs: Sequence[RunNumbers]) -> list[tuple[str, list[str]]]:
    """Return the settings: all of a single run, of several those in which they differ."""

    def text(value: object) -> str:
        if value is None:
            return "not set"
        if isinstance(value, list):
            return ", ".join(map(text, value)) or "none"
        if isinstance(value, dict):  # a stage of a chain
            return " ".join(f"{key}={text(of)}" for key, of in value.items())
        return f"{value:g}" if isinstance(value, float) else str(value)

    columns = [
        {"base": run.base, "dtype": run.dtype, "device": run.device} | run.settings for run in runs
    ]
    names = dict.fromkeys(name for settings in columns for name in settings if name != "run.dir")
    rows = [(name, [text(settings.get(name)) for settings in columns]) for name in names]
    return [(name, row) for name, row in rows if len(runs) == 1 or len(set(row)) > 1]
