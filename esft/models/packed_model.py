"""The model of a checkpoint that is quantized, its linear layers as the codes that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from esft.errors import ModelError
from esft.models.check import weight_files
from esft.models.coded_model import (
    can_be_codes,
    empty_model,
    filled,
    on_meta,
    put_codes_,
    require_codes,
)
from esft.models.packed_checkpoint import Packing, keys_of, layers_of, packing_of, quantized

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

    from esft.engine.codes import Quantized
    from esft.models.check import Header


def packed_model(
    folder: Path,
    config: PreTrainedConfig,
    headers: Mapping[str, Header],
    dtype: torch.dtype,
    name: str,
) -> PreTrainedModel:
    """Return the model of a folder that is quantized, its linear layers as the codes there.

    Raises:
        ModelError: see `filled` and `packing_of`; also if it is not quantized.
    """
    from transformers import GenerationConfig

    packing = _packing(config, name)
    del config.quantization_config  # of the model here it says nothing
    model = empty_model(config, dtype, name)
    with tensors_in(folder, name) as tensor:
        filled(model, _packed_values(model, list(headers), tensor, packing), dtype, name)
    model.generation_config = GenerationConfig.from_model_config(config)
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _packing(config: PreTrainedConfig, name: str) -> Packing:
    scheme = getattr(config, "quantization_config", None)
    if scheme is None:
        raise ModelError(
            f"{name} has floats, expected a quantized checkpoint for --weights codes",
            hint="--weights int8 or int4 makes codes of them",
        )
    return packing_of(scheme if isinstance(scheme, dict) else scheme.to_dict(), name)


def _packed_values(
    model: PreTrainedModel, keys: list[str], tensor: Callable[[str], Tensor], packing: Packing
) -> Iterator[tuple[str, Callable[[], Quantized] | Tensor]]:
    """Yield each parameter that a checkpoint has, with its codes or floats."""
    parameters, used = {name for name, _ in model.named_parameters()}, set()
    for layer in layers_of(keys, packing):
        used.update(keys_of(layer, packing, keys))
        if f"{layer}.weight" in parameters and can_be_codes(model, layer):
            yield f"{layer}.weight", partial(quantized, layer, tensor, packing)
    for key in keys:
        if key in parameters and key not in used:
            yield key, tensor(key)


@contextmanager
def tensors_in(folder: Path, name: str) -> Iterator[Callable[[str], Tensor]]:
    """Return what reads a tensor of a folder's safetensors files by its name, KeyError if none."""
    from safetensors import safe_open

    with ExitStack() as files:
        opened = [
            files.enter_context(safe_open(folder / file, framework="pt"))
            for file in weight_files(folder, name)
        ]
        place = {key: file for file in opened for key in file.keys()}  # noqa: SIM118
        yield lambda key: place[key].get_tensor(key)


def packed_outline_(
    folder: Path, headers: Mapping[str, Header], model: PreTrainedModel, dtype: torch.dtype
) -> None:
    """Make the linear layers of a model on the meta device codes, as they are in a folder; of each
    the first matrix of its shape is read."""
    packing = _packing(model.config, str(folder))
    forms: dict[tuple[int, ...], Quantized] = {}
    with tensors_in(folder, str(folder)) as tensor:
        for parameter, value in _packed_values(model, list(headers), tensor, packing):
            if callable(value):
                shape = tuple(model.get_parameter(parameter).shape)
                matrix = forms.setdefault(shape, value() if shape not in forms else None)
                layer = parameter.rpartition(".")[0]
                put_codes_(model, layer, on_meta(matrix, shape), dtype)
    require_codes(model, str(folder))
