"""A step of a run whose base model is a .gguf file as such a file, compared with it in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from esft.engine.coded import coded_of
from esft.engine.weights import identity
from esft.errors import RunError
from esft.export.compare import (
    Conversion,
    compare,
    find_prompts,
    holdout_rows,
    output_of,
    tokens_of,
)
from esft.files import require_free
from esft.models.device import FLOAT
from esft.models.gguf_copy import copy_gguf
from esft.models.gguf_tensors import GgufTensor, tensors_of
from esft.models.load import LoadedModel, load_model
from esft.tuning.rebuild import RebuildOptions, Rebuilt, Source, rebuild
from esft.tuning.watcher import Watcher

_FOLDER = "write a folder, without .gguf at its end: llama.cpp converts it"
_Bytes = Callable[[], np.ndarray]
_TYPE_OF = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F16"}


@dataclass(frozen=True, kw_only=True)
class ExportedGguf:
    """What was written."""

    step: int
    tuned: str  # identity of the model in memory
    recorded: bool  # whether the run recorded it too
    type: str  # of the matrices, "codes" where they are those of the base file
    size: int  # bytes
    base_size: int  # of the file it came from
    prompts: int  # whose logits and answers were compared, where the weights are others
    conversion: Conversion | None  # None where the model read back has the very weights


def export_gguf(
    source: Source,
    at: str,
    out: Path,
    watcher: Watcher,
    options: RebuildOptions,
    kind: str | None = None,
) -> ExportedGguf:
    """Write the model of a step as the .gguf file that its base model is, with tuned weights.

    Tuned codes go back into the blocks they came from: the same tensors, types and metadata, and
    three keys more (esft.base, esft.journal, esft.settings). Tuned floats are written as `kind`.
    What lies on the disk is read again: codes and scales must be those in memory, and of floats
    logits and greedy answers are compared.

    Args:
        kind: one of `GGUF_TYPES`, for floats; None takes that of the run's dtype, F16 for float32.

    Raises:
        EsftError: if the base model is not a .gguf file, the weights are codes that did not come
            from it or `kind` is given for codes, or the file cannot be written.
    """
    out = Path(out).absolute()
    require_free(out)
    weights = source.record.header.get("weights", FLOAT)
    _refuse(source, weights, kind)
    rows = holdout_rows(source, watcher)
    rebuilt = rebuild(source, at, watcher, options)
    loaded, base = rebuilt.base.loaded, _base_file(rebuilt)
    tensors = tensors_of(base, loaded.model)
    kind = _TYPE_OF[loaded.dtype] if kind is None else kind
    values, kinds = _codes(rebuilt, tensors), None
    if weights == FLOAT:
        values, kinds = _floats(loaded, tensors, kind, base)
    prompts, _ = find_prompts(source, rows)
    asked = [tokens for prompt in prompts if (tokens := tokens_of(prompt, loaded.tokenizer))]
    part = out.with_name(f".{out.name}.part.gguf")
    try:
        watcher.phase(f"writing {out}")
        copy_gguf(base, part, values, _keys(rebuilt), kinds, None if kinds is None else kind)
        watcher.phase("reading it again, to compare it with the tuned model")
        conversion = _compared(loaded, part, weights, asked)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return ExportedGguf(
        step=rebuilt.step,
        tuned=rebuilt.weights,
        recorded=rebuilt.proven,
        type="codes" if kinds is None else kind,
        size=out.stat().st_size,
        base_size=base.stat().st_size,
        prompts=0 if conversion is None else len(asked),
        conversion=conversion,
    )


def _refuse(source: Source, weights: str, kind: str | None) -> None:
    """Raise RunError for weights that no .gguf file has, or a type that they cannot take."""
    if weights not in (FLOAT, "codes"):
        raise RunError(
            f"{source.record.path} tuned {weights}, codes that no .gguf file has, expected floats "
            "or --weights codes",
            hint=_FOLDER,
        )
    if weights == "codes" and kind is not None:
        raise RunError(
            f"--type is {kind}, expected none: the run tuned the codes of its file, which keep "
            "their types",
            hint="leave --type out",
        )


def _base_file(rebuilt: Rebuilt) -> Path:
    base = Path(rebuilt.base.loaded.source)
    if base.suffix.lower() == ".gguf" and base.is_file():
        return base
    raise RunError(
        f"the base model of {rebuilt.source.record.path} is {base}, expected a .gguf file: what is "
        "written takes all but the weights from it",
        hint=_FOLDER,
    )


def _compared(
    loaded: LoadedModel, part: Path, weights: str, asked: list[tuple[int, ...]]
) -> Conversion | None:
    """Return how a file differs from the model in memory, None where its weights are the same;
    RunError where its codes are others."""
    dtype = str(loaded.dtype).removeprefix("torch.")
    again = load_model(str(part), dtype=dtype, device=str(loaded.device), weights=weights)
    if identity(again.model) == identity(loaded.model):
        return None
    if weights != FLOAT:
        raise RunError(
            "what was written does not hold the tuned codes when it is read again",
            hint="nothing was left; try again, on another disk. If it stays so, this is a bug",
        )
    before = output_of(loaded, asked)
    return compare(before, output_of(again, asked, before.batch))


def _keys(rebuilt: Rebuilt) -> dict[str, str]:
    record = rebuilt.source.record
    header = {key: value for key, value in record.header.items() if key != "parts"}
    header["model"] = Path(header["model"]).name  # not the folders that lead to it
    return {
        "esft.base": rebuilt.base.identity,
        "esft.journal": f"step {rebuilt.step}, checksum {record.checksums[rebuilt.step]}",
        "esft.settings": json.dumps(header),
    }


def _codes(rebuilt: Rebuilt, tensors: list[GgufTensor]) -> dict[str, _Bytes]:
    """Return what makes the bytes of each tensor that was tuned, in the type that it has."""
    loaded = rebuilt.base.loaded
    coded, tuned = coded_of(loaded.model), set(rebuilt.base.weights.names)

    def made(one: GgufTensor) -> _Bytes:
        if one.parameter in coded:
            return lambda: one.blocks_with(coded[one.parameter].codes().cpu().numpy())
        return _bytes_of(loaded, one, one.kind)

    return {one.name: made(one) for one in tensors if one.parameter in tuned}


def _bytes_of(loaded: LoadedModel, tensor: GgufTensor, kind: str) -> _Bytes:
    """Return what makes the bytes of a tensor from the floats of its parameter."""
    from gguf import GGMLQuantizationType, quantize

    def make() -> np.ndarray:
        values = loaded.model.get_parameter(tensor.parameter).detach().float().cpu().numpy()
        there = np.empty_like(values)
        there[tensor.places] = values
        return quantize(there, GGMLQuantizationType[kind])

    return make


def _floats(
    loaded: LoadedModel, tensors: list[GgufTensor], kind: str, base: Path
) -> tuple[dict[str, _Bytes], dict[str, str]]:
    """Return what makes the bytes of each tensor, and its type: `kind` for matrices whose rows
    fill its blocks, F16 for others, and F32 for vectors."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kinds = {}
    for one in tensors:
        shape = loaded.model.get_parameter(one.parameter).shape
        if one.places is None:
            raise RunError(
                f"{base} holds {one.name} otherwise than {one.parameter}, and what it would be "
                "there cannot be told",
                hint=_FOLDER,
            )
        fills = len(shape) > 1 and not shape[-1] % GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]
        kinds[one.name] = "F32" if len(shape) == 1 else kind if fills else "F16"
    return {one.name: _bytes_of(loaded, one, kinds[one.name]) for one in tensors}, kinds
