"""`esft runs`, `rm`, `verify` and `report`: which runs there are, and what became of them."""

from __future__ import annotations

import webbrowser
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from esft.cli.options import complete_runs, json_option, run_argument
from esft.cli.show import check_text, columns, show_work, wrapped
from esft.rollout.typed import json_text

if TYPE_CHECKING:
    from esft.runs.listing import ListedRun


@click.command(short_help="List the runs.")
@json_option
def runs(as_json: bool) -> None:
    """List the runs under runs/, the newest first, each with what sets it apart from the others of
    the same task and model.

    Below: when it began; share of holdout rows right and their reward, of the base model and at the
    last evaluation; steps done of those planned; size on the disk. esft resume goes on with what is
    stopped, esft rm removes runs.
    """
    from esft.runs.listing import listed_runs

    listed = listed_runs()
    if as_json:
        click.echo(json_text(listed))
        return
    if not listed:
        click.echo("There is no run under runs/.\nHint: start one: esft tune quickstart", err=True)
        return
    click.echo(_line("began", "right", "reward", "steps", "size", "state"))
    for run in listed:
        click.echo(wrapped("", _called(run), subsequent_indent="  ", break_long_words=True))
        click.echo(_figures(run))
        if run.problem is not None:
            click.echo(wrapped(" " * 4, run.problem, break_long_words=True))


def _called(run: ListedRun) -> str:
    """Return a run's name, its task and model unless that says them, and what sets it apart."""
    from esft.runs.differences import short_name
    from esft.runs.names import stem_of

    parts = [run.name]
    if run.task and run.model and not run.name.startswith(stem_of(run.task, run.model)):
        parts.append(f"{short_name(run.task)} on {short_name(run.model)}")
    return "  ".join((*parts, run.differs)).rstrip()


def _figures(run: ListedRun) -> str:
    from rich.filesize import decimal

    right = [
        None if share is None else 100 * share for share in (run.accuracy_before, run.accuracy)
    ]
    rewards = (run.reward_before, run.reward)
    return _line(
        _began(run.started),
        f"{_number(right[0], '.0f')} -> {_number(right[1], '.0f')} %",
        "" if rewards == (run.accuracy_before, run.accuracy) else _change(rewards),
        f"{_number(run.steps)}/{_number(run.planned)}",
        decimal(run.size),
        run.state,
    )


def _line(*cells: str) -> str:
    return f"{columns(cells[:-1], (14, 14, 18, 9, 10))}  {cells[-1]}"


def _change(values: tuple[float | None, float | None]) -> str:
    return " -> ".join(_number(value, ".3f") for value in values)


def _began(started: str | None) -> str:
    """Return a time on record as the clock on the wall says it, the year where it is another."""
    try:
        time = datetime.fromisoformat(started or "").astimezone()
    except (ValueError, OverflowError):
        return "-"
    same = time.year == datetime.now().astimezone().year
    return f"{time.day} {time:%b %H:%M}" if same else f"{time.day} {time:%b %Y}"


def _number(value: float | None, form: str = "d") -> str:
    return "-" if value is None else format(value, form)


@click.command(short_help="Remove runs, and say what that frees.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=complete_runs)
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(runs: tuple[str, ...], yes: bool) -> None:
    """Remove the folder of each RUN for good: journal, snapshots, model and reports.

    RUN is a name under runs/ or a path. It asks first, with what that frees; a run that is being
    worked on is refused, and links in a folder are removed without what they lead to.

    \b
    Examples:
      esft rm arc-qwen2.5-1.5b-1
      esft rm arc-qwen2.5-1.5b-1 arc-qwen2.5-1.5b-2 --yes
    """
    from rich.filesize import decimal

    from esft.runs.listing import size_of
    from esft.runs.names import removable, remove_run

    sizes = {path: size_of(path) for path in removable(runs)}
    if not yes:
        for path, size in sizes.items():
            click.echo(f"{decimal(size):>10}  {path}")
        many = "this run" if len(sizes) == 1 else f"these {len(sizes)} runs"
        question = f"Remove {many} for good? It frees {decimal(sum(sizes.values()))}"
        if not click.confirm(question):
            click.echo("Nothing was removed.")
            return
    for path, size in sizes.items():
        remove_run(path)
        click.echo(f"removed {path}: {decimal(size)} freed")


@click.command(short_help="Check that a run is whole and rebuilds its model.")
@run_argument
@click.option("--quick", is_flag=True, help="Rebuild from the nearest snapshot, not the base.")
@click.option("--model", help="Base model, where it is not found as the run named it.")
@click.option("--device", help="cuda, mps or cpu  [default: the run's, else the first]")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON on stdout.")
@click.pass_context
def verify(
    ctx: click.Context, run: str | None, quick: bool, as_json: bool, **base: str | None
) -> None:
    """Check journal, records, snapshots and model of RUN, and that base and journal make its bits.

    RUN is a name under runs/, a path, or a journal that esft export --journal wrote; without
    one, the newest run. Exit code 1 where a check fails.

    \b
    Examples:
      esft verify
      esft verify arc-qwen2.5-1.5b-1 --quick
    """
    from esft.tuning.rebuild import RebuildOptions
    from esft.tuning.verify import FAILED, checks_of, find_target

    path = find_target(run)
    found = []
    with show_work() as watcher:
        for check in checks_of(path, watcher, RebuildOptions(from_base=not quick, **base)):
            found.append(check)
            if not as_json:
                watcher.result(check_text(check))
    failed = sum(check.result == FAILED for check in found)
    if as_json:
        click.echo(json_text({"run": path, "ok": not failed, "checks": found}))
    else:
        total = f"{failed} of {len(found)} checks failed" if failed else "no check failed"
        click.echo(wrapped("", f"{path}: {total}"))
    ctx.exit(1 if failed else 0)


@click.command(short_help="Make a page with pictures of one or several runs.")
@click.argument("runs", nargs=-1, metavar="[RUN ...]", shell_complete=complete_runs)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write  [default: the run's; for several runs report/]",
)
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON on stdout.")
def report(runs: tuple[str, ...], out: Path | None, show: bool, as_json: bool) -> None:
    """Write a page on RUN: what became of the task and of all else it could do, with answers
    before and after; then how the weights moved. Several runs come into the same pictures.

    RUN is a name under runs/ or a path; without one, the newest run. The page is a single file
    that needs no network; its pictures lie beside it as PNG. What esft eval measured of a run is
    shown with it.

    \b
    Examples:
      esft report --open
      esft report with-awd without-awd --out compared
    """
    from esft.report.write import write_report
    from esft.runs.names import find_run

    written = write_report([find_run(name) for name in runs or (None,)], out)
    for run in written.runs:
        for note in run.notes:
            click.echo(f"{run.name}: {note}", err=True)
    click.echo(json_text(written) if as_json else written.page)
    if show and not webbrowser.open(written.page.resolve().as_uri()):
        click.echo("No browser was found: open the page by hand", err=True)
