"""A step of a run as a Hugging Face folder, compared with the model in memory."""

import gc
import tempfile
from pathlib import Path

import torch

from esft.engine.weights import identity
from esft.errors import RunError
from esft.export.card import card
from esft.export.check import Comparison, check_anew, keep_reference
from esft.export.exported import Exported, Tuned, base_of
from esft.export.figures import figures
from esft.export.prompts import find_prompts
from esft.files import require_free, whole_folder, write_whole
from esft.models.device import parse_dtype
from esft.models.load import LoadedModel
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

    Before the folder appears, a new process loads it and compares it with the model in memory:
    weights, logits and greedy answers, which must be equal bit for bit where the dtype stays.

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
    prompts = find_prompts(source, watcher)
    watcher.phase(f"taking logits and greedy answers of {len(prompts.prompts)} prompts")
    reference = figures(rebuilt.base.loaded, prompts.prompts)
    tuned, loaded = _tuned(rebuilt), rebuilt.base.loaded
    del rebuilt
    if wanted not in (None, loaded.dtype):
        _release()  # the drift, which holds on to the weights as they are
        _convert_(loaded, wanted)
    with whole_folder(out) as partial, _work_beside(partial) as work:
        watcher.phase(f"saving the model to {out}")
        write_model(loaded, partial)
        weights, kept = identity(loaded.model), _name(loaded.model.dtype)
        keep_reference(
            Path(work), reference, prompts.prompts, weights, loaded, trust_remote_code(source)
        )
        del loaded  # the new process has its room then
        _release()
        watcher.phase("loading it again in a new process, to compare it with the tuned model")
        comparison = check_anew(partial, Path(work))
        _refuse_other(out, comparison, converted=kept != tuned.dtype)
        exported = Exported(
            tuned=tuned,
            dtype=kept,
            weights=weights,
            prompts=prompts.source,
            comparison=comparison,
        )
        write_whole(partial / "README.md", card(source, exported))
    return exported


def trust_remote_code(source: Source) -> bool:
    """Return whether the run's recipe lets code that comes with the checkpoint run."""
    if source.run is None:
        return False
    return load_recipe(str(source.run.recipe_path), {}).model.trust_remote_code


def _tuned(rebuilt: Rebuilt) -> Tuned:
    loaded = rebuilt.base.loaded
    return Tuned(
        step=rebuilt.step,
        best=rebuilt.source.best,
        base=base_of(rebuilt.source, loaded),
        base_weights=rebuilt.base.identity,
        weights=rebuilt.weights,
        recorded=rebuilt.proven,
        parameters=rebuilt.base.weights.numel,
        drift=rebuilt.base.drift.norm(),
        dtype=_name(loaded.dtype),
        device=loaded.device.type,
    )


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


def _refuse_other(out: Path, found: Comparison, *, converted: bool) -> None:
    """Raise RunError if what was loaded again is not the tuned model."""
    wrong = None
    if not found.same_weights:
        wrong = "its weights are not those that were written"
    elif not found.same_tokens:
        wrong = "its tokenizer splits the prompts otherwise"
    elif converted and not found.finite:
        raise RunError(
            f"the model for {out} gives NaN or infinite logits: it overflows in this dtype",
            hint="take --dtype bfloat16 or float32, or leave --dtype out; nothing was left",
        )
    elif not converted and not found.exact:
        wrong = (
            f"its logits differ by up to {found.largest_difference:.3g}, and "
            f"{found.same_answers} of {found.prompts} greedy answers are equal"
        )
    if wrong is not None:
        raise RunError(
            f"the model for {out} was loaded again and is not the tuned one: {wrong}",
            hint="nothing was left; try again, on another disk. If it stays so, this is a bug",
        )


def _work_beside(partial: Path) -> tempfile.TemporaryDirectory:
    # Of the same ending as the partial folder, so that it goes where that is cleared away.
    return tempfile.TemporaryDirectory(
        prefix=f"{partial.stem}-", suffix=partial.suffix, dir=partial.parent
    )


def _release() -> None:
    """Give back the memory of what is no longer used."""
    gc.collect()  # weights and drift know each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
