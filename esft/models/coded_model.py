"""Models whose matrices are codes: quantized here, or as a checkpoint holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from esft.errors import ModelError
from esft.models.calling import clear_config
from esft.models.check import and_more

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

    from esft.engine.codes import Quantized


def empty_model(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    name: str,
    kind: type[PreTrainedModel] | None = None,
) -> PreTrainedModel:
    """Return the model of a config on the CPU, of a `kind` where that is known, its parameters not
    yet written: memory that nobody writes to is not taken."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with clear_config(name), no_init_weights():
        make = AutoModelForCausalLM.from_config if kind is None else kind._from_config
        model = make(config, dtype=dtype)
    model.tie_weights()
    return model


def quantize_(model: PreTrainedModel, weights: str, dtype: torch.dtype, name: str) -> None:
    """Make the linear layers of a model codes, "int8" or "int4", one after the other, and what else
    it has `dtype`. Its embeddings and its head stay floats.

    Raises:
        ModelError: if it has no linear layer.
    """
    import torch

    from esft.models.quantize import quantize_int4, quantize_int8

    quantize = {"int8": quantize_int8, "int4": quantize_int4}[weights]
    layers = linear_layers(model)
    if not layers:
        raise ModelError(
            f"{name} has no linear layers, expected some to be made {weights}",
            hint="leave --weights out: its weights stay floats then",
        )
    for layer in layers:
        weight = model.get_submodule(layer).weight.data
        first = quantize(torch.zeros(1, weight.shape[1])) if weight.is_meta else quantize(weight)
        put_codes_(model, layer, on_meta(first, weight.shape) if weight.is_meta else first, dtype)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def on_meta(row: Quantized, shape: tuple[int, int]) -> Quantized:
    """Return a matrix of the form of its first row, on torch's meta device."""
    import torch

    rows = shape[0]
    like = {
        name: torch.empty(rows, one.shape[1], dtype=one.dtype, device="meta")
        for name, one in vars(row).items()
        if isinstance(one, torch.Tensor)
    }
    return replace(row, **like)


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Return the names of the linear layers of a model but its head."""
    from torch import nn

    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head
    ]


def put_codes_(model: PreTrainedModel, layer: str, matrix: Quantized, dtype: torch.dtype) -> None:
    """Put a matrix of codes in the place of that of a linear layer or an embedding; a head is not
    tuned."""
    from torch import nn

    from esft.engine.coded import CodedEmbedding, CodedLinear

    module = model.get_submodule(layer)
    if isinstance(module, nn.Embedding):
        coded = CodedEmbedding(matrix, dtype)
    else:
        bias = None if module.bias is None else module.bias.data.to(dtype)
        tuned = module is not model.get_output_embeddings()
        coded = CodedLinear(matrix, bias, dtype, tuned=tuned)
    model.set_submodule(layer, coded.eval(), strict=True)


def can_be_codes(model: PreTrainedModel, layer: str) -> bool:
    """Return whether a module is a plain linear layer or embedding, which codes can stand in for.

    One that does more with its matrix, such as an embedding that scales what it gives, is another
    type.
    """
    from torch import nn

    return type(model.get_submodule(layer)) in (nn.Linear, nn.Embedding)


def filled(
    model: PreTrainedModel,
    matrices: Iterable[tuple[str, Callable[[], Quantized] | Tensor]],
    dtype: torch.dtype,
    name: str,
) -> PreTrainedModel:
    """Return an `empty_model` with all its weights, codes and floats, by parameter.

    Raises:
        ModelError: if a parameter is missing or has another shape, or no linear layer is codes.
    """
    from torch import Tensor

    missing = dict(model.named_parameters())
    for parameter, value in matrices:
        shape = tuple(model.get_parameter(parameter).shape)
        given = value if isinstance(value, Tensor) else value()
        found = tuple((given if isinstance(given, Tensor) else given.codes).shape)
        if found != shape:
            raise ModelError(
                f"{name}: {parameter} has shape {found}, its config expects {shape}",
                hint="the file is damaged, or its parts are of different models: download it again",
            )
        missing.pop(parameter, None)
        if isinstance(given, Tensor):
            model.get_parameter(parameter).data.copy_(given)
        else:
            put_codes_(model, parameter.rpartition(".")[0], given, dtype)
    tie_codes_(model)
    if missing:
        names = sorted(missing)
        raise ModelError(
            f"{name} lacks {names[0]}{and_more(names)}, which its config calls for",
            hint="take the whole checkpoint of a causal language model",
        )
    require_codes(model, name)
    return model.eval()


def require_codes(model: PreTrainedModel, name: str) -> None:
    """Raise ModelError if no linear layer of a model is codes."""
    from esft.engine.coded import CodedLinear

    if not any(isinstance(module, CodedLinear) and module.tuned for module in model.modules()):
        raise ModelError(
            f"{name} has no linear layer in codes that can be tuned, expected some",
            hint="--weights int8 or int4 makes codes of its weights; without, they are tuned as "
            "floats",
        )


def tie_codes_(model: PreTrainedModel) -> None:
    """Let a head that shares its matrix with the embedding share its codes."""
    from esft.engine.coded import Coded, CodedLinear

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = model.config.get_text_config().tie_word_embeddings
    if not tied or not isinstance(embedding, Coded) or isinstance(head, Coded):
        return
    layer = next(name for name, module in model.named_modules() if module is head)
    shared = CodedLinear.sharing(embedding, None if head.bias is None else head.bias.data)
    model.set_submodule(layer, shared.eval(), strict=True)


def as_floats(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Return a copy of a model with floats in place of codes, which transformers can save."""
    from esft.engine.coded import coded_of

    copied = empty_model(model.config, model.dtype, name, type(model))
    coded = coded_of(model)
    for parameter, value in model.named_parameters():
        one = coded.get(parameter)
        copied.get_parameter(parameter).data.copy_(value if one is None else one.values())
    copied.generation_config = model.generation_config
    return copied.eval().requires_grad_(False)


def coded_note(model: PreTrainedModel, why: str) -> str:
    """Return what is codes in a model, at how many bits a weight, and what it computes in."""
    from esft.engine.coded import coded_of

    tuned = [one for one in coded_of(model).values() if one.tuned]
    numel = sum(math.prod(one.shape) for one in tuned)
    size = sum(one.nbytes for one in tuned)
    levels = sorted({one.grid.high - one.grid.low + 1 for one in tuned})
    return (
        f"codes of {' or '.join(map(str, levels))} levels, {8 * size / numel:.2f} bits a weight "
        f"with their scales, {size / 1e6:.0f} MB; "
        f"{str(model.dtype).removeprefix('torch.')}: {why}"
    )
