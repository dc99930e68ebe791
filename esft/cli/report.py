"""`esft report`: one page on what tuning did, with pictures."""

import json
from pathlib import Path

import click


@click.command(short_help="Make a page with pictures of one or several runs.")
@click.argument("runs", nargs=-1, metavar="[RUN ...]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write  [default: the run's; for several runs report/]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON on stdout.")
def report(runs: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Write a page on RUN: target and prior tasks one by one, drift and its forecast, KL, rewards
    of the population and what the decay did. Several runs come into the same pictures.

    RUN is a name under runs/ or a path; without one, the newest run. The page is a single file
    that needs no network; its pictures lie beside it as PNG. What esft eval measured of a run is
    shown with it.

    \b
    Examples:
      esft report
      esft report with-awd without-awd --out compared
    """
    from esft.report.write import write_report
    from esft.runs.names import find_run

    paths = [find_run(name) for name in runs or (None,)]
    written = write_report(paths, out)
    for run in written.runs:
        for note in run.notes:
            click.echo(f"{run.name}: {note}", err=True)
    click.echo(json.dumps(written.as_record()) if as_json else written.page)
