"""A step of a run as a Hugging Face folder, compared with the model in memory."""

import gc
import re
from pathlib import Path

import torch

from esft.engine.weights import identity
from esft.errors import RunError
from esft.export.card import Exported, Tuned, card
from esft.export.compare import compare, output_of
from esft.export.prompts import find_prompts, tokens_of
from esft.files import require_free, whole_folder, write_whole
from esft.models.device import parse_dtype
from esft.models.load import LoadedModel, load_model
from esft.models.save import write_model
from esft.recipe.toml import load_recipe
from esft.tuning.rebuild import RebuildOptions, Rebuilt, Source, rebuild
from esft.tuning.watcher import Watcher


def export(
    source: Source,
    at: str,
    out: Path,
    watcher: Watcher,
    *,
    dtype: str | None = None,
    model: str | None = None,
    device: str | None = None,
    from_base: bool = False,
) -> Exported:
    """Write the model of a step to a folder that transformers loads, with a model card.

    Before the folder appears, what lies on the disk is loaded again. Its weights must be those in
    memory, bit for bit, and it must split the prompts into the same tokens. Where `dtype` converts,
    logits and greedy answers are compared too.

    Args:
        source: the run or journal.
        at: "best", "last" or the number of a step.
        out: the folder; new or empty.
        watcher: told of progress.
        dtype: float32, float16 or bfloat16, to which the weights are converted; None keeps theirs.
        model: the base model; None takes that of the run.
        device: where the model is rebuilt and compared; None takes the run's, or the best.
        from_base: make every step again, without snapshots.

    Raises:
        EsftError: if the step cannot be rebuilt, a weight does not fit `dtype`, the folder cannot
            be written, or what it holds is not the tuned model; nothing is left then.
    """
    out = Path(out).absolute()
    require_free(out)
    wanted = None if dtype is None else parse_dtype(dtype)
    rebuilt = rebuild(
        source, at, watcher, RebuildOptions(model=model, device=device, from_base=from_base)
    )
    prompts, prompts_from = find_prompts(source, watcher)
    tuned, loaded = _tuned(rebuilt), rebuilt.base.loaded
    del rebuilt
    tokens = [tokens_of(prompt, loaded.tokenizer) for prompt in prompts]
    asked = [prompt for prompt in tokens if prompt]
    before = None
    if wanted not in (None, loaded.dtype):
        watcher.phase(f"taking logits and greedy answers of {len(asked)} prompts")
        before = output_of(loaded, asked)
        _release()  # the drift, which holds on to the weights as they are
        _convert_(loaded, wanted)
    with whole_folder(out) as partial:
        watcher.phase(f"saving the model to {out}")
        write_model(loaded, partial)
        weights, kept = identity(loaded.model), _name(loaded.model.dtype)
        where = str(loaded.device) if loaded.device.type == "cuda" else loaded.device.type
        del loaded  # the one that is loaded again has its room then
        _release()
        watcher.phase("loading it again, to compare it with the tuned model")
        again = load_model(str(partial), device=where, trust_remote_code=_trusts_code(source))
        if identity(again.model) != weights:
            raise _other(out, "its weights are not those that were written")
        if [tokens_of(prompt, again.tokenizer) for prompt in prompts] != tokens:
            raise _other(out, "its tokenizer splits the prompts otherwise")
        conversion = None
        if before is not None:
            after = output_of(again, asked, before.batch)
            if not after.logits.isfinite().all():
                raise RunError(
                    f"the model for {out} gives NaN or infinite logits: it overflows in {kept}",
                    hint="take --dtype bfloat16 or float32, or leave --dtype out; nothing was left",
                )
            conversion = compare(before, after)
        del again  # no system removes or renames a file that is mapped
        exported = Exported(
            tuned=tuned,
            dtype=kept,
            weights=weights,
            prompts=len(asked),
            prompts_from=prompts_from,
            conversion=conversion,
        )
        write_whole(partial / "README.md", card(source, exported))
    return exported


def base_of(source: Source, loaded: LoadedModel) -> tuple[str, str | None]:
    """Return what the base model is called where others read it, and its commit on the hub.

    A model of the hub is called by its id; any other, by the name of its folder or file without
    what leads to it, and has no commit.

    Args:
        source: a run, which says it, or a journal alone.
        loaded: what a journal alone was rebuilt from.
    """
    info = None if source.run is None else source.run.info["model"]
    # A path is absolute there, so that it does not look like a hub id.
    on_hub = re.fullmatch(
        r"([\w.-]+/[\w.-]+)@(\w+)", loaded.source if info is None else str(info["source"])
    )
    if on_hub:
        return on_hub[1], on_hub[2]
    id = loaded.id if info is None else str(info["id"])
    return Path(id).expanduser().resolve().name, None


def _tuned(rebuilt: Rebuilt) -> Tuned:
    loaded = rebuilt.base.loaded
    name, revision = base_of(rebuilt.source, loaded)
    return Tuned(
        step=rebuilt.step,
        best=rebuilt.source.best,
        base=name,
        revision=revision,
        base_weights=rebuilt.base.identity,
        weights=rebuilt.weights,
        recorded=rebuilt.proven,
        parameters=rebuilt.base.weights.numel,
        drift=rebuilt.base.drift.norm(),
        dtype=_name(loaded.dtype),
        device=loaded.device.type,
    )


def _trusts_code(source: Source) -> bool:
    """Return whether the run's recipe lets code that comes with the checkpoint run."""
    if source.run is None:
        return False
    return load_recipe(str(source.run.recipe_path), {}).model.trust_remote_code


def _convert_(loaded: LoadedModel, dtype: torch.dtype) -> None:
    """Bring the parameters to a dtype, one by one: there is never a second model.

    Parameters that the model keeps in a dtype of their own stay as they are, and so do buffers,
    which transformers brings to it on loading.

    Raises:
        RunError: if a weight is too large for the dtype.
    """
    for name, parameter in loaded.model.named_parameters():
        if parameter.dtype != loaded.dtype:
            continue
        converted = parameter.data.to(dtype)
        if not converted.isfinite().all():
            raise RunError(
                f"{name} has weights up to {float(parameter.data.abs().max()):.4g}, expected at "
                f"most {torch.finfo(dtype).max:.5g}, the largest of {_name(dtype)}",
                hint="take --dtype bfloat16 or float32, or leave --dtype out",
            )
        parameter.data = converted


def _other(out: Path, reason: str) -> RunError:
    return RunError(
        f"the model for {out} was loaded again and is not the tuned one: {reason}",
        hint="nothing was left; try again, on another disk. If it stays so, this is a bug",
    )


def _release() -> None:
    """Give back the memory of what is no longer used."""
    gc.collect()  # one object that refers to itself would keep a whole model in memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
