"""What a .gguf file has beside its weights, checked; and reading such a file quickly."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esft.errors import ModelError
from esft.models.calling import load_tokenizer
from esft.models.check import check_layers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@contextmanager
def read_once() -> Iterator[None]:
    """Have transformers parse a .gguf file, and map the names of its tensors, once in the block.

    Version 5 asks the gguf package for a reader twice, which makes an array of every token, and for
    the same map of names for every module of the model: 20 s of the 28 that SmolLM2-135M took on a
    busy core. A version that asks otherwise loads as it does outside the block.
    """
    import gguf

    # Where transformers looks them up at each call.
    quicker = {"GGUFReader": _plain_arrays, "get_tensor_name_map": lambda plain: plain}
    plain = {name: getattr(gguf, name) for name in quicker if hasattr(gguf, name)}
    try:
        for name, function in plain.items():
            setattr(gguf, name, cache(quicker[name](function)))
        yield
    finally:
        for name, function in plain.items():
            setattr(gguf, name, function)


def _plain_arrays(reader: Any) -> Any:
    """Return what reads as a GGUFReader does, without a memmap for every slice of the file."""
    import numpy as np

    def read(*args: Any, **options: Any) -> Any:
        try:

            class Quick(reader):
                def __setattr__(self, name: str, value: object) -> None:
                    # The same bytes of the same mapped file, seen as a plain array.
                    value = np.asarray(value) if isinstance(value, np.memmap) else value
                    super().__setattr__(name, value)

            return Quick(*args, **options)
        except Exception:  # a reader of another kind, or a damaged file: as it would have been
            return reader(*args, **options)

    return read


def gguf_config_and_tokenizer(
    path: Path, empty: str
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return what a .gguf file has beside its weights, checked.

    Beside the file there may lie a tokenizer.json of another model, which transformers would
    prefer to the tokenizer in the file: so it gets an `empty` folder to look into.
    """
    from transformers import PreTrainedTokenizerFast

    file = str(path.resolve())
    config = _gguf_config(path, empty, file)
    check_layers(config.to_dict(), str(path))
    # Not AutoTokenizer, which reads the whole file once more to find out the same class.
    return config, load_tokenizer(PreTrainedTokenizerFast, empty, str(path), gguf_file=file)


def _gguf_config(path: Path, empty: str, file: str) -> PreTrainedConfig:
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
