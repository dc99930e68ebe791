"""`esft replay`: the model of any step, without rollouts."""

from pathlib import Path

import click

from esft.cli.options import GroupedCommand, rebuild_options
from esft.cli.show import show_work


@click.command(cls=GroupedCommand, short_help="Rebuild the model of any step.")
@click.argument("run", required=False)
@rebuild_options
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def replay(run: str | None, at: str, out: Path, **base: object) -> None:
    """Rebuild the model of a step of RUN bit for bit, from the base model and the journal.

    RUN is a name under runs/, a path, or a journal that esft export --journal wrote; without
    one, the newest run.

    \b
    Examples:
      esft replay --at 120 --out step-120
      esft replay tuned.jsonl --model Qwen2.5-1.5B --out tuned
    """
    from esft.files import require_free
    from esft.models.save import save_model
    from esft.tuning.rebuild import RebuildOptions, find_source, rebuild

    require_free(out)
    with show_work() as watcher:
        rebuilt = rebuild(find_source(run), at, watcher, RebuildOptions(**base))
        watcher.phase(f"saving the model to {out}")
        save_model(rebuilt.base.loaded, out)
    same = ", the weights that the run recorded" if rebuilt.proven else ""
    click.echo(f"step {rebuilt.step} of {rebuilt.source.record.path}{same}")
    click.echo(f"weights  sha256 {rebuilt.weights}")
    click.echo(f"model    {out}")
