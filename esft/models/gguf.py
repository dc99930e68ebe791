"""A model from a .gguf file, its weights dequantized."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from esft.errors import ModelError
from esft.models.calling import load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_gguf(
    path: Path, dtype: torch.dtype, device_map: dict | None
) -> tuple[PreTrainedModel, dict, PreTrainedTokenizerBase]:
    """Return the model in plain weights, its output_loading_info and its tokenizer."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    file = str(path.resolve())
    # Beside the file there may lie a tokenizer.json of another model, which transformers would
    # prefer to the tokenizer in the file: so it gets an empty folder to look into.
    with tempfile.TemporaryDirectory(prefix="esft-gguf-") as empty:
        config = _read_config(path, file, empty)
        # Not AutoTokenizer, which reads the whole file once more to find out the same class.
        tokenizer = load_tokenizer(PreTrainedTokenizerFast, empty, str(path), gguf_file=file)
        model, info = AutoModelForCausalLM.from_pretrained(
            empty,
            config=config,
            gguf_file=file,
            dtype=dtype,
            device_map=device_map,
            output_loading_info=True,
            **_dequantize(),
        )
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
            f"{path} is not a .gguf file, or it is damaged or cut short: {error}",
            hint="copy or download it again",
        ) from error


def _dequantize() -> dict:
    try:
        from transformers import GgufConfig
    except ImportError:  # before it came, transformers always dequantized
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}
