"""A model from a .gguf file, its weights dequantized."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from esft.errors import ModelError
from esft.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_gguf(
    path: Path, dtype: torch.dtype, device_map: dict | None
) -> tuple[PreTrainedModel, dict, PreTrainedTokenizerBase]:
    """Model with plain weights in `dtype`, what transformers says of the loading, tokenizer.

    Raises:
        ModelError: if the file is damaged, cut short or of a kind that transformers lacks.
    """
    from transformers import AutoModelForCausalLM

    file = str(path.resolve())
    # Beside the file there may lie a tokenizer.json of another model, which transformers would
    # prefer to the tokenizer in the file: so it gets an empty folder to look into.
    with tempfile.TemporaryDirectory(prefix="esft-gguf-") as empty, _parsed_once():
        config = _read_config(path, file, empty)
        model, info = AutoModelForCausalLM.from_pretrained(
            empty,
            config=config,
            gguf_file=file,
            dtype=dtype,
            device_map=device_map,
            output_loading_info=True,
            **_dequantize(),
        )
        tokenizer = load_tokenizer(empty, str(path), gguf_file=file)
    model.config.name_or_path = tokenizer.name_or_path = str(path)
    return model, info, tokenizer


def _read_config(path: Path, file: str, empty: str):
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(empty, gguf_file=file)
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        if "not supported" in str(error):  # the architecture: the file itself is sound
            raise ModelError(f"{path}: {error}", hint="take the model's safetensors") from error
        raise ModelError(
            f"{path} is no .gguf file, or it is damaged or cut short: {error}",
            hint="copy or download it again",
        ) from error


def _dequantize() -> dict:
    try:
        from transformers import GgufConfig
    except ImportError:  # before it came, transformers always dequantized
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Inside the block transformers gets the same answer when it asks gguf the same again.

    It parses the file three times, and makes the table of names anew for every module: most of
    the time of loading a small model (SmolLM2-135M: 6 s of CPU instead of 16).
    """
    import gguf

    names = ("GGUFReader", "get_tensor_name_map")
    originals = {name: getattr(gguf, name) for name in names}
    try:
        for name, original in originals.items():
            setattr(gguf, name, cache(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)
