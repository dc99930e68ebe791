"""A report on disk: one page, and a picture a section."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esft.evals.results import to_json
from esft.files import write_whole, writing
from esft.report.draw import as_png
from esft.report.numbers import RunNumbers
from esft.report.page import make_page
from esft.report.read import named_apart, read_run
from esft.report.sections import NAMES, sections_of

REPORT_FORMAT = 2
"""Of the numbers that `Report.as_record` returns."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written."""

    page: Path
    pictures: tuple[Path, ...]
    runs: tuple[RunNumbers, ...]

    def as_record(self) -> dict[str, object]:
        """Return all numbers of the report, and where it is."""
        return {
            "format": REPORT_FORMAT,
            "page": str(self.page),
            "pictures": [str(picture) for picture in self.pictures],
            "runs": [to_json(run) for run in self.runs],
        }


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
