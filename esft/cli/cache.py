"""`esft cache`: what esft keeps to save work, and its end."""

import json
from dataclasses import asdict

import click

from esft.cli.options import json_option
from esft.cli.show import columns


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
