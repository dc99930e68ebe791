"""A step of a run as a Hugging Face folder, compared with the model in memory."""

import gc
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from esft.engine.coded import coded_of
from esft.engine.weights import identity, identity_as_saved
from esft.errors import EsftError, RunError
from esft.export.card import Exported, card, example_of
from esft.export.compare import (
    ModelOutput,
    compare,
    find_prompts,
    holdout_rows,
    output_of,
    tokens_of,
)
from esft.export.ollama import modelfile, why_not
from esft.files import require_free, whole_folder, write_whole
from esft.models.device import parse_dtype
from esft.models.load import LoadedModel, load_model
from esft.models.save import write_model
from esft.runs.records import metrics
from esft.tasks.task import Row
from esft.tuning.rebuild import RebuildOptions, Rebuilt, Source, rebuild, step_of
from esft.tuning.verify import load_saved
from esft.tuning.watcher import Watcher

_NOT_COMPARED = ("_name_or_path", "transformers_version", "architectures", "auto_map")
"""What saving changes in a config, and no answer depends on."""


def export(
    source: Source,
    at: str,
    out: Path,
    watcher: Watcher,
    options: RebuildOptions,
    dtype: str | None = None,
    pushed: str | None = None,
) -> Exported:
    """Write the model of a step to a folder that transformers and Ollama load, with a model card.

    Before the folder appears, what lies on the disk is loaded again. Its weights must be those in
    memory, bit for bit, with the same configs, and it must split the prompts into the same tokens.
    Where `dtype` converts, logits and greedy answers are compared too. The model that a run saved
    is not rebuilt but copied, and must have the weights and the files that the run recorded.

    Args:
        at: "best", "last" or the number of a step.
        out: the folder; new or empty.
        options: how and where the model is rebuilt; it is compared there too.
        dtype: float32, float16 or bfloat16, to which the weights are converted; None keeps theirs.
        pushed: the repository on the hub that the folder will go to, for its card.

    Raises:
        EsftError: if the step cannot be rebuilt, a weight does not fit `dtype`, the folder cannot
            be written, or what it holds is not the tuned model; nothing is left then.
    """
    out = Path(out).absolute()
    require_free(out)
    wanted = None if dtype is None else parse_dtype(dtype)
    rows = holdout_rows(source, watcher)
    if _is_saved(source, step_of(source, at), options, wanted):
        try:
            return _copied(source, out, watcher, rows, pushed)
        except EsftError as error:
            watcher.notice(f"{error}; so the step is rebuilt")
    return _rebuilt(source, at, out, watcher, options, wanted, rows, pushed)


def _rebuilt(
    source: Source,
    at: str,
    out: Path,
    watcher: Watcher,
    options: RebuildOptions,
    wanted: torch.dtype | None,
    rows: Sequence[Row],
    pushed: str | None,
) -> Exported:
    rebuilt = rebuild(source, at, watcher, options)
    loaded = rebuilt.base.loaded
    prompts, prompts_from = find_prompts(source, rows)
    tokens = [tokens_of(prompt, loaded.tokenizer) for prompt in prompts]
    asked = [prompt for prompt in tokens if prompt]
    exported = replace(_in_memory(rebuilt, len(asked), prompts_from), pushed=pushed)
    del rebuilt  # its drift holds on to the weights as they are
    before = None
    if wanted not in (None, loaded.dtype):
        watcher.phase(f"taking logits and greedy answers of {len(asked)} prompts")
        before = output_of(loaded, asked)
        _release()
        _convert_(loaded, wanted)
        exported = replace(exported, dtype=_name(wanted), weights=identity_as_saved(loaded.model))
    with whole_folder(out) as partial:
        watcher.phase(f"saving the model to {out}")
        write_model(loaded, partial)
        configs = _configs(loaded)
        device = str(loaded.device) if loaded.device.type == "cuda" else loaded.device.type
        del loaded  # the one that is loaded again has its room then
        _release()
        watcher.phase("loading it again, to compare it with the tuned model")
        trusted = source.run is not None and source.recipe.model.trust_remote_code
        again = load_model(str(partial), device=device, trust_remote_code=trusted)
        _require_same(again, exported.weights, configs, out)
        if [tokens_of(prompt, again.tokenizer) for prompt in prompts] != tokens:
            raise _other(out, "its tokenizer splits the prompts otherwise")
        if before is not None:
            after = output_of(again, asked, before.batch)
            _require_finite(after, exported.dtype, out)
            exported = replace(exported, conversion=compare(before, after))
        exported = _described(source, exported, again, partial, rows)
        del again  # no system removes or renames a file that is mapped
    return exported


def _is_saved(
    source: Source, step: int, options: RebuildOptions, dtype: torch.dtype | None
) -> bool:
    """Return whether the model asked for is the one that the run saved when it ended."""
    run = source.run
    if run is None or run.info.state != "finished" or run.info.saved.step != step:
        return False
    kept = dtype is None or _name(dtype) == run.info.model.dtype
    there = run.kept_model is not None and run.kept_model.is_dir()
    return kept and there and options.model is None and not options.from_base


def _copied(
    source: Source, out: Path, watcher: Watcher, rows: Sequence[Row], pushed: str | None
) -> Exported:
    """Copy the model that a run saved; EsftError if it is not as it was saved."""
    run = source.run
    saved, about = run.info.saved, run.info.model
    with whole_folder(out) as partial:
        watcher.phase(f"copying {run.model_path}")
        shutil.copytree(run.model_path, partial, dirs_exist_ok=True)
        copied = load_saved(run, watcher, partial)
        name, revision = base_of(source, copied)
        exported = Exported(
            step=saved.step,
            best=source.best,
            base=name,
            revision=revision,
            base_weights=about.base,
            tuned_weights=saved.weights,
            recorded=True,
            parameters=about.tuned_parameters,
            drift=next((s.drift for s in metrics(run.path) if s.step == saved.step), None),
            tuned_dtype=about.dtype,
            device=copied.device.type,
            dtype=about.dtype,
            weights=saved.weights,
            prompts=0,
            prompts_from="",
            conversion=None,
            pushed=pushed,
        )
        exported = _described(source, exported, copied, partial, rows)
        del copied  # no system removes or renames a file that is mapped
    return exported


def _described(
    source: Source, exported: Exported, loaded: LoadedModel, folder: Path, rows: Sequence[Row]
) -> Exported:
    """Write the card and, where Ollama reads the model, a Modelfile to its folder."""
    chat, no_ollama = loaded.tokenizer.chat_template is not None, why_not(loaded, folder)
    exported = replace(exported, chat=chat, no_ollama=no_ollama)
    if no_ollama is None:
        write_whole(folder / "Modelfile", modelfile(loaded))
    example = example_of(source, exported.step, rows)
    write_whole(folder / "README.md", card(source, exported, example))
    return exported


def _in_memory(rebuilt: Rebuilt, prompts: int, prompts_from: str) -> Exported:
    """Return what is to be said of the model when it and its drift are gone."""
    base, loaded = rebuilt.base, rebuilt.base.loaded
    name, revision = base_of(rebuilt.source, loaded)
    dtype = _name(loaded.dtype)
    return Exported(
        step=rebuilt.step,
        best=rebuilt.source.best,
        base=name,
        revision=revision,
        base_weights=base.identity,
        tuned_weights=rebuilt.weights,
        recorded=rebuilt.proven,
        parameters=base.weights.numel,
        drift=base.drift.norm(),
        tuned_dtype=dtype,
        device=loaded.device.type,
        dtype=dtype,
        weights=rebuilt.weights,
        prompts=prompts,
        prompts_from=prompts_from,
        conversion=None,
    )


def _configs(loaded: LoadedModel) -> list[dict[str, object]]:
    model = loaded.model
    # As JSON, in which numbers as keys are texts and tuples are lists.
    texts = [it.to_json_string(use_diff=False) for it in (model.config, model.generation_config)]
    return [
        {key: value for key, value in json.loads(text).items() if key not in _NOT_COMPARED}
        for text in texts
    ]


def _require_same(again: LoadedModel, weights: str, configs: list[dict], out: Path) -> None:
    if identity(again.model) != weights:
        raise _other(out, "its weights are not those that were written")
    for before, now in zip(configs, _configs(again), strict=True):
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise _other(out, f"{key} is {now.get(key)!r}, expected {before.get(key)!r}")


def _require_finite(output: ModelOutput, dtype: str, out: Path) -> None:
    if not output.logits.isfinite().all():
        raise RunError(
            f"the model for {out} gives NaN or infinite logits: it overflows in {dtype}",
            hint="take --dtype bfloat16 or float32, or leave --dtype out; nothing was left",
        )


def base_of(source: Source, loaded: LoadedModel) -> tuple[str, str | None]:
    """Return what the base model is called where others read it, and its commit on the hub.

    One that is not from the hub is called by its folder or file without what leads to it, and has
    no commit. A journal alone does not say it: `loaded` does.
    """
    about = loaded if source.run is None else source.run.info.model
    # A path is absolute there, so that it does not look like a hub id.
    if on_hub := re.fullmatch(r"([\w.-]+/[\w.-]+)@(\w+)", about.source):
        return on_hub[1], on_hub[2]
    return Path(about.id).expanduser().resolve().name, None


def _convert_(loaded: LoadedModel, dtype: torch.dtype) -> None:
    """Bring the parameters to a dtype, one by one: there is never a second model.

    Parameters that the model keeps in a dtype of their own stay as they are, and so do buffers,
    which transformers brings to it on loading. Codes become floats of it when they are saved. A
    weight too large for the dtype is refused.
    """
    coded = coded_of(loaded.model)
    for name, parameter in loaded.model.named_parameters():
        if name in coded:
            _require_fit(name, coded[name].values(), dtype)
            coded[name].dtype = dtype
        elif parameter.dtype == loaded.dtype:
            _require_fit(name, parameter.data, dtype)
            parameter.data = parameter.data.to(dtype)


def _require_fit(name: str, values: torch.Tensor, dtype: torch.dtype) -> None:
    if not values.to(dtype).isfinite().all():
        raise RunError(
            f"{name} has weights up to {float(values.abs().max()):.4g}, expected at "
            f"most {torch.finfo(dtype).max:.5g}, the largest of {_name(dtype)}",
            hint="take --dtype bfloat16 or float32, or leave --dtype out",
        )


def _other(out: Path, reason: str) -> RunError:
    return RunError(
        f"the model for {out} was loaded again and is not the tuned one: {reason}",
        hint="nothing was left; try again, on another disk. If it stays so, this is a bug",
    )


def _release() -> None:
    """Give back the memory of what is no longer used."""
    gc.collect()  # one object that refers to itself would keep a whole model in memory
    torch.cuda.empty_cache()  # nothing on a CPU


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
