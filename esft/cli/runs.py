"""`esft runs`: what there is under runs/ and how it stands."""

import json
from dataclasses import asdict

import click

from esft.cli.options import json_option
from esft.cli.show import columns, wrapped

_HEADS = ("steps", "reward", "||D||", "size", "state")
_WIDTHS = (13, 20, 10, 10)


@click.command(short_help="List the runs.")
@json_option
def runs(as_json: bool) -> None:
    """List the runs under runs/, the newest first: steps done of those planned, holdout reward
    of the base model and at the last evaluation, drift, size on the disk and state.

    A run is killed where it did not end and no process works on it: esft resume goes on with it.
    """
    from esft.runs.listing import listed_runs

    listed = listed_runs()
    if as_json:
        click.echo(json.dumps([asdict(run) for run in listed]))
        return
    if not listed:
        click.echo("There is no run under runs/.", err=True)
        click.echo("Hint: start one: esft tune quickstart", err=True)
        return
    click.echo(_line(*_HEADS))
    for run in listed:
        about = f"{run.task} on {run.model}" if run.task and run.model else ""
        name = f"{run.name}  {about}".rstrip()
        click.echo(wrapped("", name, subsequent_indent="  ", break_long_words=True))
        steps = f"{_number(run.steps)}/{_number(run.planned)}"
        reward = f"{_number(run.reward_before, '.3f')} -> {_number(run.reward, '.3f')}"
        click.echo(_line(steps, reward, _number(run.drift, ".4g"), _size(run.size), run.state))
        if run.problem is not None:
            click.echo(wrapped(" " * 4, run.problem, break_long_words=True))


def _line(*cells: str) -> str:
    return f"{columns(cells[:-1], _WIDTHS)}  {cells[-1]}"


def _number(value: float | None, form: str = "d") -> str:
    return "-" if value is None else format(value, form)


def _size(nbytes: int) -> str:
    size, units = nbytes / 1e3, ["kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1e3, units[1:]
    return f"{size:.1f} {units[0]}"
