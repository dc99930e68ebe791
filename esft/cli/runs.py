"""`esft runs`: what there is under runs/ and how it stands."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from esft.cli.options import json_option

if TYPE_CHECKING:
    from esft.runs.listing import ListedRun

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

    found = listed_runs()
    if as_json:
        click.echo(json.dumps([asdict(run) for run in found]))
        return
    if not found:
        click.echo("There is no run under runs/.", err=True)
        click.echo("Hint: start one: esft tune quickstart", err=True)
        return
    click.echo(_columns(*_HEADS))
    for run in found:
        click.echo(_text(run))


def _text(run: ListedRun) -> str:
    about = f"{run.task} on {run.model}" if run.task and run.model else ""
    steps = f"{_shown(run.steps)}/{_shown(run.planned)}"
    reward = f"{_shown(run.reward_before, '.3f')} -> {_shown(run.reward, '.3f')}"
    lines = [
        _folded(f"{run.name}  {about}".rstrip(), ""),
        _columns(steps, reward, _shown(run.drift, ".4g"), _size(run.size), run.state),
    ]
    if run.problem is not None:
        lines.append(_folded(run.problem, "    "))
    return "\n".join(lines)


def _columns(*cells: str) -> str:
    *numbers, state = cells
    aligned = "".join(f"{cell:>{width}}" for cell, width in zip(numbers, _WIDTHS, strict=True))
    return f"{aligned}  {state}"


def _folded(text: str, indent: str) -> str:
    width = min(100, shutil.get_terminal_size().columns)
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent or "  ",
        break_on_hyphens=False,
    )


def _shown(value: float | None, form: str = "d") -> str:
    return "-" if value is None else format(value, form)


def _size(nbytes: int) -> str:
    size, units = nbytes / 1e3, ["kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1e3, units[1:]
    return f"{size:.1f} {units[0]}"
