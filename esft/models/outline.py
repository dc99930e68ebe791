"""A model without its weights: its config, its tokenizer and the headers of its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from esft.errors import ModelError
from esft.models.calling import clear_config, clear_errors, quiet
from esft.models.check import FLOATS, Header, check_headers, check_weights, weight_files
from esft.models.coded_model import quantize_
from esft.models.device import FLOAT, choose_device, choose_gguf_dtype, parse_dtype
from esft.models.find import fetch_headers, fetch_small_files, find_model
from esft.models.gguf_file import gguf_config_and_tokenizer, read_once
from esft.models.load import config_and_tokenizer, outline_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a `LoadedModel` would be, told from its config and the headers of its weights."""

    model: PreTrainedModel
    """On torch's meta device, in `dtype`."""
    tokenizer: PreTrainedTokenizerBase
    id: str
    device: torch.device
    """That the weights would be on."""
    dtype: torch.dtype
    missing: int
    """Bytes of weights that would be downloaded first."""
    mappable: bool
    """Whether its own files hold the weights as they would be loaded."""


def outline_model(
    id: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    weights: str = FLOAT,
) -> Outline:
    """Return what `load_model` with the same arguments would load; no weight is read or
    downloaded, and of a model on the hub the small files come into its cache.

    Raises:
        ModelError: as `load_model`, as far as headers tell; also where the model's code does not
            work without weights.
    """
    on = choose_device(device)
    wanted = None if dtype is None else parse_dtype(dtype)
    where = find_model(id)
    in_file = isinstance(where, Path) and where.is_file()
    if wanted is None and (in_file or weights != FLOAT):
        wanted = choose_gguf_dtype(on)[0]
    headers: Mapping[str, Header] = {}
    missing = 0
    with quiet(), clear_errors(str(where)):
        if in_file:
            config, tokenizer, model = _outline_file(where, weights, wanted)
        else:
            folder = where
            if isinstance(where, str):
                folder = fetch_small_files(where, code=trust_remote_code)
                where = where.partition("@")[0]
            codes = weights == "codes"
            config, tokenizer, _ = config_and_tokenizer(
                where, folder.absolute(), trust_remote_code, codes
            )
            model = _outline(config, str(where))
            if codes:
                from esft.models.packed_model import packed_outline_

                headers = check_weights(folder, str(where), 0, codes=True)
                packed_outline_(folder, headers, model, wanted)
            else:
                numel = sum(parameter.numel() for parameter in model.parameters())
                headers, missing = _headers(str(where), folder, numel)
    stored = config.dtype or _first_dtype(headers)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(stored if wanted is None else wanted)
    if weights in ("int8", "int4"):
        quantize_(model, weights, model.dtype, str(where))
    return Outline(
        model=model,
        tokenizer=tokenizer,
        id=id,
        device=on,
        dtype=model.dtype,
        missing=missing,
        mappable=bool(headers) and weights == FLOAT and _first_dtype(headers) == model.dtype,
    )


def _outline_file(
    path: Path, weights: str, dtype: torch.dtype
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedModel]:
    """Return what a .gguf file holds beside its weights, and the outline of its model."""
    with TemporaryDirectory(prefix="esft-gguf-") as empty, read_once():
        config, tokenizer = gguf_config_and_tokenizer(path, empty)
        model = _outline(config, str(path))
        if weights == "codes":
            from esft.models.gguf_tensors import gguf_outline_

            gguf_outline_(path, model, dtype)
    return config, tokenizer, model


def _outline(config: PreTrainedConfig, name: str) -> PreTrainedModel:
    with clear_config(name):
        model = outline_of(config)
    if model is None:
        raise ModelError(
            f"{name}: its code does not work without weights, expected a model that does",
            hint="start the run (esft tune): its first lines say what it takes",
        )
    return model.eval().requires_grad_(False)


def _headers(name: str, folder: Path, numel: int) -> tuple[Mapping[str, Header], int]:
    """Return the headers of a checkpoint's files, checked, and the bytes that are not here."""
    files = weight_files(folder, name)
    absent = [file for file in files if not (folder / file).is_file()]
    if not absent or Path(name).is_dir():
        return check_weights(folder, name, numel), 0
    by_file = fetch_headers(name, folder.name)
    headers = {key: header for file in by_file.values() for key, header in file.items()}
    check_headers(headers, name, numel)
    lacking = (header for file in absent for header in by_file.get(file, {}).values())
    return headers, sum(math.prod(shape) * FLOATS.get(kind, 8) for kind, shape in lacking)


def _first_dtype(headers: Mapping[str, Header]) -> torch.dtype | None:
    """Return the dtype that transformers takes where the config names none."""
    import torch

    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    kinds = (names[kind] for kind, _ in headers.values() if kind in names)
    return getattr(torch, next(kinds, "float32"))
