"""`esft runs`, `esft verify` and `esft report`: which runs there are, and what became of them."""

from pathlib import Path

import click

from esft.cli.options import json_option
from esft.cli.show import columns, show_work, wrapped
from esft.rollout.typed import json_text


@click.command(short_help="List the runs.")
@json_option
def runs(as_json: bool) -> None:
    """List the runs under runs/, the newest first: steps done of those planned, holdout reward
    of the base model and at the last evaluation, drift, size on the disk and state.

    A run is killed where it did not end and no process works on it: esft resume goes on with it.
    """
    from rich.filesize import decimal

    from esft.runs.listing import listed_runs

    listed = listed_runs()
    if as_json:
        click.echo(json_text(listed))
        return
    if not listed:
        click.echo("There is no run under runs/.\nHint: start one: esft tune quickstart", err=True)
        return
    click.echo(_line("steps", "reward", "||D||", "size", "state"))
    for run in listed:
        about = f"{run.task} on {run.model}" if run.task and run.model else ""
        name = f"{run.name}  {about}".rstrip()
        click.echo(wrapped("", name, subsequent_indent="  ", break_long_words=True))
        steps = f"{_number(run.steps)}/{_number(run.planned)}"
        reward = f"{_number(run.reward_before, '.3f')} -> {_number(run.reward, '.3f')}"
        click.echo(_line(steps, reward, _number(run.drift, ".4g"), decimal(run.size), run.state))
        if run.problem is not None:
            click.echo(wrapped(" " * 4, run.problem, break_long_words=True))


def _line(*cells: str) -> str:
    return f"{columns(cells[:-1], (13, 20, 10, 10))}  {cells[-1]}"


def _number(value: float | None, form: str = "d") -> str:
    return "-" if value is None else format(value, form)


@click.command(short_help="Check that a run is whole and rebuilds its model.")
@click.argument("run", required=False)
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
            if as_json:
                continue
            label = f"{check.result.replace('not applicable', 'n/a'):<7}{check.what:<14} "
            click.echo(wrapped(label, check.text))
            if check.hint is not None:
                click.echo(wrapped(" " * len(label), f"Hint: {check.hint}"))
    failed = sum(check.result == FAILED for check in found)
    if as_json:
        click.echo(json_text({"run": path, "ok": not failed, "checks": found}))
    else:
        total = f"{failed} of {len(found)} checks failed" if failed else "no check failed"
        click.echo(wrapped("", f"{path}: {total}"))
    ctx.exit(1 if failed else 0)


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

    written = write_report([find_run(name) for name in runs or (None,)], out)
    for run in written.runs:
        for note in run.notes:
            click.echo(f"{run.name}: {note}", err=True)
    click.echo(json_text(written) if as_json else written.page)
