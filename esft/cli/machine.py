"""`esft cache` and `esft doctor`: what esft keeps on this machine, and whether it is well."""

import json
from dataclasses import asdict

import click

from esft.cli.options import json_option
from esft.cli.show import check_text, columns, show_work, wrapped
from esft.rollout.typed import json_text


@click.command(short_help="Show, or empty, what esft keeps to save work.")
@click.option("--clear", is_flag=True, help="Remove it all, and say how much that freed.")
@json_option
def cache(clear: bool, as_json: bool) -> None:
    """Show how much esft keeps to save work: what was measured, and base weights on the disk.

    It lies in $ESFT_CACHE_DIR, else in ~/.cache/esft, and grows until --clear: esft removes none of
    it by itself. What is gone is made again when it is needed. A run that maps base weights from
    there stops at its next step, and esft resume goes on with it.

    \b
    Examples:
      esft cache
      esft cache --clear
    """
    from rich.filesize import decimal

    from esft.files import cache_folder
    from esft.rollout.cache import KINDS, cached_kinds, clear_cache

    kinds, folder = cached_kinds(), str(cache_folder())
    freed = clear_cache() if clear else 0
    if as_json:
        record = {"folder": folder, "kinds": [asdict(kind) for kind in kinds]}
        click.echo(json.dumps(record | ({"freed": freed} if clear else {})))
        return
    if clear:
        click.echo(f"freed {decimal(freed)} in {folder}")
        return
    for kind in kinds:
        files = f"{kind.files:,} file{'' if kind.files == 1 else 's'}"
        cells = (kind.kind, files, decimal(kind.nbytes))
        click.echo(f"{columns(cells, (10, 14, 10))}  {KINDS[kind.kind]}")
    click.echo(f"in all {decimal(sum(kind.nbytes for kind in kinds))} in {folder}")


@click.command(short_help="Is this machine well? What is broken, and what to mend.")
@click.option("--model", default="embedded", show_default=True, help="Model to test with.")
@click.option("--device", help="cuda, mps or cpu  [default: the first there is]")
@json_option
@click.pass_context
def doctor(ctx: click.Context, model: str, device: str | None, as_json: bool) -> None:
    """Look at versions, device, memory, kernels, cache and hub; then see, with a model, whether
    members and steps leave the bits that they should, and whether greedy answers stay the same
    with other batch sizes and numbers of threads.

    What is failed must be mended; a note is worth knowing. Exit code 1 where something failed.

    \b
    Examples:
      esft doctor
      esft doctor --model Qwen2.5-1.5B
    """
    from esft.bench.doctor import examine
    from esft.tuning.verify import FAILED

    found = []
    with show_work() as watcher:
        for check in examine(model, device, watcher):
            found.append(check)
            if not as_json:
                watcher.result(check_text(check))
    failed = [check.what for check in found if check.result == FAILED]
    if as_json:
        click.echo(json_text({"ok": not failed, "checks": found}))
    else:
        broken = f"broken: {', '.join(failed)}" if failed else "nothing is broken"
        click.echo(wrapped("", broken))
    ctx.exit(1 if failed else 0)
