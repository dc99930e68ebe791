"""`esft replay` and `esft export`: the model of any step, as a folder or a journal to mail."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from esft.cli.options import GroupedCommand, json_option, rebuild_options, run_argument
from esft.cli.show import show_work
from esft.files import slug
from esft.models.device import DTYPES, GGUF_TYPES
from esft.rollout.typed import json_text

if TYPE_CHECKING:
    from esft.export.card import Exported
    from esft.export.gguf import ExportedGguf
    from esft.export.journal import ExportedJournal
    from esft.tuning.rebuild import Source


@click.command(cls=GroupedCommand, short_help="Rebuild the model of any step.")
@run_argument
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
@run_argument
@rebuild_options
@click.option("--out", required=True, type=click.Path(path_type=Path), help="What to write.")
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Convert the weights  [default: the dtype of the run]",
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(GGUF_TYPES),
    help="Type of the matrices in a .gguf file of a run that tuned floats  [default: F16, or BF16 "
    "of a run in bfloat16]",
)
@click.option(
    "--push", metavar="OWNER/NAME", help="Bring the folder to the hub too; a new one is private."
)
@click.option("--journal", is_flag=True, help="Write the journal alone: a file of kilobytes.")
@json_option
def export(
    run: str | None,
    out: Path,
    dtype: str | None,
    kind: str | None,
    push: str | None,
    journal: bool,
    as_json: bool,
    **which: object,
) -> None:
    """Write the model of a step of RUN to a folder that transformers and Ollama load.

    What lies on the disk is loaded again and compared with the model in memory: all weights and
    the tokens of 32 prompts; with --dtype also logits and greedy answers. What comes out stands in
    the model card, README.md of the folder. The last step of a finished run is copied as it was
    saved.

    Where --out ends in .gguf and the base model is such a file, that file is written again with the
    tuned weights: the same tensors and metadata, and of a run with --weights codes the same size.

    With --journal, write the journal up to that step to a file: from it and the base model,
    esft replay makes the same bits. RUN is as in esft replay.

    \b
    Examples:
      esft export --at best --out tuned
      esft export runs/arc-qwen2.5-1.5b-1 --dtype bfloat16 --out tuned
      esft export --out tuned --push my-name/my-model
      esft export --out tuned.gguf
      esft export --at 120 --journal --out tuned.jsonl
    """
    if journal and (dtype is not None or push is not None):
        option = "--dtype converts" if push is None else "--push sends"
        raise click.UsageError(f"{option} a model, which --journal does not write")
    as_gguf = out.suffix.lower() == ".gguf"
    if as_gguf and (journal or dtype is not None or push is not None):
        option = "--journal" if journal else "--dtype" if push is None else "--push"
        raise click.UsageError(f"{option} is for another --out than one that ends in .gguf")
    if kind is not None and not as_gguf:
        raise click.UsageError("--type is of a .gguf file: end --out in .gguf")
    from esft.export.folder import export as export_folder
    from esft.export.gguf import export_gguf
    from esft.export.journal import export_journal
    from esft.export.push import open_repository, push_folder
    from esft.tuning.rebuild import RebuildOptions, find_source

    source = find_source(run)
    address = None if push is None else open_repository(push)
    with show_work() as watcher:
        asked = (source, which.pop("at"), out, watcher, RebuildOptions(**which))
        if as_gguf:
            done = export_gguf(*asked, kind)
        else:
            done = export_journal(*asked) if journal else export_folder(*asked, dtype, push)
        if push is not None:
            watcher.phase(f"sending {out} to {address}")
            push_folder(out, push)
    if journal:
        record, lines = _of_journal(source, done, out)
    elif as_gguf:
        record, lines = _of_gguf(source, done, out)
    else:
        record, lines = _of_folder(source, done, out)
        record |= {"pushed": address}
        lines += [] if address is None else [f"hub      {address}"]
    click.echo(json_text(record) if as_json else "\n".join(lines))


def _of_journal(source: Source, done: ExportedJournal, out: Path) -> tuple[dict, list[str]]:
    again = shlex.join(["esft", "replay", str(out), "--model", done.model, "--out", "DIR"])
    lines = [f"step {done.step} of {source.record.path}", f"weights  sha256 {done.weights}"]
    lines += [f"journal  {out}, {done.size / 1000:.1f} kB", f"rebuild  {again}"]
    return asdict(done) | {"journal": out}, lines


def _of_gguf(source: Source, done: ExportedGguf, out: Path) -> tuple[dict, list[str]]:
    from esft.export.card import conversion_text

    same = ", the weights that the run recorded" if done.recorded else ""
    compared = "read again, it has the very codes, scales and floats of the model in memory"
    if done.conversion is not None:
        compared = f"of {done.prompts} prompts {conversion_text(done.conversion, done.prompts)}"
    sizes = f"{done.size / 1e6:.1f} MB of type {done.type}; its base {done.base_size / 1e6:.1f} MB"
    lines = [f"step {done.step} of {source.record.path}{same}", f"compared {compared}"]
    lines += [f"weights  sha256 {done.tuned}", f"model    {out}, {sizes}"]
    return asdict(done) | {"model": out}, lines


def _of_folder(source: Source, done: Exported, out: Path) -> tuple[dict, list[str]]:
    from esft.export.card import comparison_text

    kept = ("step", "dtype", "weights", "prompts", "prompts_from", "conversion")
    tuned = {"dtype": done.tuned_dtype, "weights": done.tuned_weights, "recorded": done.recorded}
    record = {"model": out, "best_step": done.best, "tuned": tuned}
    record |= {key: value for key, value in asdict(done).items() if key in kept}
    record["modelfile"] = None if done.no_ollama else out / "Modelfile"
    same = ", the weights that the run recorded" if done.recorded else ""
    lines = [f"step {done.step} of {source.record.path}{same}"]
    lines += [f"compared {comparison_text(done)}", f"weights  sha256 {done.weights}"]
    lines += [f"model    {out}"]
    if not done.prompts:
        lines.append(f"same as  {source.run.model_path}, which the run left")
    if done.no_ollama is None:
        name = slug(out.absolute().name)
        lines.append(f"ollama   {shlex.join(['ollama', 'create', name, '-f', f'{out}/Modelfile'])}")
        lines.append(f"         ollama run {name}")
    else:
        lines.append(f"ollama   there is no Modelfile: {done.no_ollama}")
    return record, lines
