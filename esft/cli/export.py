"""`esft replay` and `esft export`: the model of any step, as a folder or a journal to mail."""

import shlex
from dataclasses import asdict
from pathlib import Path

import click

from esft.cli.options import GroupedCommand, json_option, rebuild_options
from esft.cli.show import show_work
from esft.models.device import DTYPES
from esft.rollout.typed import json_text


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
    click.echo(f"weights  sha256 {rebuilt.weights}\nmodel    {out}")


@click.command(cls=GroupedCommand, short_help="Write a step's model, compared with the tuned one.")
@click.argument("run", required=False)
@rebuild_options
@click.option("--out", required=True, type=click.Path(path_type=Path), help="What to write.")
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Convert the weights  [default: the dtype of the run]",
)
@click.option("--journal", is_flag=True, help="Write the journal alone: a file of kilobytes.")
@json_option
def export(
    run: str | None, out: Path, dtype: str | None, journal: bool, as_json: bool, **which: object
) -> None:
    """Write the model of a step of RUN to a folder that transformers loads.

    What lies on the disk is loaded again and compared with the model in memory: all weights and
    the tokens of 32 prompts; with --dtype also logits and greedy answers. What comes out stands in
    the model card, README.md of the folder.

    With --journal, write the journal up to that step to a file: from it and the base model,
    esft replay makes the same bits. RUN is as in esft replay.

    \b
    Examples:
      esft export --at best --out tuned
      esft export runs/arc-qwen2.5-1.5b-1 --dtype bfloat16 --out tuned
      esft export --at 120 --journal --out tuned.jsonl
    """
    if journal and dtype is not None:
        raise click.UsageError("--dtype converts a model, which --journal does not write")
    from esft.export.card import comparison_text
    from esft.export.folder import export as export_folder
    from esft.export.journal import export_journal
    from esft.tuning.rebuild import RebuildOptions, find_source

    source = find_source(run)
    with show_work() as watcher:
        asked = (source, which.pop("at"), out, watcher, RebuildOptions(**which))
        done = export_journal(*asked) if journal else export_folder(*asked, dtype)
    record, weights = asdict(done), f"weights  sha256 {done.weights}"
    if journal:
        record["journal"] = out
        again = shlex.join(["esft", "replay", str(out), "--model", done.model, "--out", "DIR"])
        lines = [f"step {done.step} of {source.record.path}", weights]
        lines += [f"journal  {out}, {done.size / 1000:.1f} kB", f"rebuild  {again}"]
    else:
        kept = ("step", "dtype", "weights", "prompts", "prompts_from", "conversion")
        tuned = {"dtype": done.tuned_dtype, "weights": done.tuned_weights}
        tuned["recorded"] = done.recorded
        record = {"model": out, "best_step": done.best, "tuned": tuned} | {
            key: record[key] for key in kept
        }
        same = ", the weights that the run recorded" if done.recorded else ""
        lines = [f"step {done.step} of {source.record.path}{same}"]
        lines += [f"compared {comparison_text(done)}", weights, f"model    {out}"]
    click.echo(json_text(record) if as_json else "\n".join(lines))
