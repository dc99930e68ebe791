"""`esft verify`: whether a run is whole and rebuilds its model."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from esft.cli.show import show_work, wrapped

if TYPE_CHECKING:
    from esft.tuning.verify import Check

_MARKS = {"ok": "ok", "failed": "failed", "not applicable": "n/a"}


@click.command(short_help="Check that a run is whole and rebuilds its model.")
@click.argument("run", required=False)
@click.option("--quick", is_flag=True, help="Rebuild from the nearest snapshot, not the base.")
@click.option("--model", help="Base model, where it is not found as the run named it.")
@click.option("--device", help="cuda, mps or cpu  [default: the run's, else the first]")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON on stdout.")
@click.pass_context
def verify(
    ctx: click.Context,
    run: str | None,
    quick: bool,
    model: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Check journal, snapshots and model of RUN, and that base and journal make that model's bits.

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
    options = RebuildOptions(model=model, device=device, from_base=not quick)
    found = []
    with show_work() as watcher:
        for check in checks_of(path, watcher, options):
            found.append(check)
            if not as_json:
                click.echo(_text(check))
    failed = [check.what for check in found if check.result == FAILED]
    if as_json:
        checks = [asdict(check) for check in found]
        click.echo(json.dumps({"run": str(path), "ok": not failed, "checks": checks}))
    elif failed:
        click.echo(wrapped("", f"{path}: {len(failed)} of {len(found)} checks failed"))
    else:
        click.echo(wrapped("", f"{path}: no check failed"))
    if failed:
        ctx.exit(1)


def _text(check: Check) -> str:
    label = f"{_MARKS[check.result]:<7}{check.what:<14} "
    lines = [wrapped(label, check.text)]
    if check.hint is not None:
        lines.append(wrapped(" " * len(label), f"Hint: {check.hint}"))
    return "\n".join(lines)
