"""The codes of a checkpoint that was quantized: GPTQ, AWQ and bitsandbytes int8.

They are read from the tensors of its safetensors files, without the packages that wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.engine.codes import Grid, Quantized
from esft.errors import ModelError

# Of a linear layer, after its name; the first tells a quantized layer from one that is not.
_PARTS = {
    "gptq": ("qweight", "qzeros", "scales", "g_idx"),
    "awq": ("qweight", "qzeros", "scales"),
    "bitsandbytes": ("SCB", "weight", "weight_format"),
}
METHODS = tuple(_PARTS)  # the values of quant_method that can be read
_BITS = {"gptq": (4, 8), "awq": (4,)}
_FORMATS = {"gptq": ("gptq", "gptq_v2"), "awq": ("gemm",)}  # the first is meant if none is named
_AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)  # of eight: the one that nibble 0, 1, ... 7 holds
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_AGAIN = "copy or download it again"
_ORIGIN = "the float checkpoint it was made from"
_QUANTIZE = f"take {_ORIGIN}, with --weights int8 or int4"


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a checkpoint holds its codes: the quantization_config of its config.json, checked."""

    name: str  # of the model, for errors
    method: str  # one of METHODS
    bits: int = 8  # of a code: 4 or 8
    group_size: int | None = None  # inputs that share a scale and a zero point; None: all do
    zeros_less_one: bool = False  # zero points stored minus 1, as in the first format of GPTQ


def packing_of(config: Mapping[str, object], name: str) -> Packing:
    """Return the packing that the "quantization_config" of the model `name` describes.

    Raises:
        ModelError: where codes packed so cannot be read, or are not multiples of one step.
    """
    method = config.get("quant_method")
    if method is None and {"load_in_8bit", "load_in_4bit"} & config.keys():
        method = "bitsandbytes"  # which did not write its name at first
    if method not in METHODS:
        raise _refused(name, f"(quant_method {method!s:.60}), expected {', '.join(METHODS)}")
    if method == "bitsandbytes":
        return _packing_of_bitsandbytes(config, name)
    bits, group_size, formats = config.get("bits"), config.get("group_size"), _FORMATS[method]
    if type(bits) is not int or bits not in _BITS[method]:
        expected = " or ".join(map(str, _BITS[method]))
        raise _refused(name, f"with {method} to {bits!r:.60} bits, expected {expected}")
    key = "checkpoint_format" if method == "gptq" else "version"
    form = str(config.get(key) or config.get("format") or formats[0]).lower()
    if form not in formats:
        expected = " or ".join(formats)
        raise _refused(name, f"with {method} in the format {form:.60}, expected {expected}")
    if type(group_size) is not int or not (group_size == -1 or group_size > 0):
        expected = "expected -1 or a whole number above 0"
        raise _refused(name, f"with {method} and group_size {group_size!r:.60}, {expected}", _AGAIN)
    size, less_one = None if group_size == -1 else group_size, form == "gptq"
    return Packing(name=name, method=method, bits=bits, group_size=size, zeros_less_one=less_one)


def layers_of(keys: Iterable[str], packing: Packing) -> list[str]:
    """Return the names of the quantized layers among the tensors `keys`, in their order."""
    mark = f".{_PARTS[packing.method][0]}"
    return [key.removesuffix(mark) for key in keys if key.endswith(mark)]


def keys_of(layer: str, packing: Packing, keys: Collection[str]) -> list[str]:
    """Return which of the tensors `keys` belong to a quantized layer, apart from its bias."""
    names = [f"{layer}.{part}" for part in _PARTS[packing.method]]
    return [name for name in names if name in keys]


def quantized(layer: str, tensor: Callable[[str], Tensor], packing: Packing) -> Quantized:
    """Return the weights of a quantized layer: a row per output, a column per input.

    Args:
        layer: its name, one of `layers_of`.
        tensor: gives a tensor of the checkpoint by its name; KeyError where there is none.
        packing: of the checkpoint.

    Raises:
        ModelError: if a tensor is missing or not as the packing has it, or if the inputs of a
            group are not consecutive.
    """
    stored = _Stored(layer, tensor, packing.name)
    return _rows(stored) if packing.method == "bitsandbytes" else _groups(stored, packing)


@dataclass(frozen=True)
class _Stored:
    """The tensors of one layer, each checked when it is asked for."""

    layer: str
    tensor: Callable[[str], Tensor]
    model: str

    def part(self, part: str, dtypes: tuple[torch.dtype, ...], *shape: int) -> Tensor:
        """Return a tensor of one of `dtypes` and of `shape`; without that, of two dimensions."""
        key = f"{self.layer}.{part}"
        try:
            value = self.tensor(key)
        except KeyError:
            raise self.error(f"{key} is missing, a part of a quantized layer") from None
        if value.dtype not in dtypes:
            found, *expected = [str(kind).removeprefix("torch.") for kind in (value.dtype, *dtypes)]
            raise self.error(f"{key} is {found}, expected {' or '.join(expected)}")
        if value.shape != shape if shape else value.ndim != 2 or not value.numel():
            expected = shape or "two dimensions above 0"
            raise self.error(f"{key} has shape {tuple(value.shape)}, expected {expected}")
        if value.is_floating_point() and not value.isfinite().all():
            raise self.error(f"{key} holds NaN or infinite values, expected finite numbers")
        return value

    def error(self, reason: str, hint: str = _AGAIN) -> ModelError:
        return ModelError(f"{self.model}: {reason}", hint=hint)


def _refused(name: str, how: str, hint: str = _QUANTIZE) -> ModelError:
    return ModelError(f"{name} is quantized {how}", hint=hint)


def _packing_of_bitsandbytes(config: Mapping[str, object], name: str) -> Packing:
    if config.get("load_in_4bit"):
        kind = config.get("bnb_4bit_quant_type") or "fp4"
        reason = f"with bitsandbytes to {kind!s:.60}, whose steps are not even"
        hint = f"take {_ORIGIN}, with --weights int4 or as floats"
        raise _refused(name, f"{reason}: expected codes that are multiples of one step", hint)
    if config.get("load_in_8bit") is not True:
        raise _refused(name, "with bitsandbytes, expected load_in_8bit to be true")
    return Packing(name=name, method="bitsandbytes")


def _rows(stored: _Stored) -> Quantized:
    """Return the weights that bitsandbytes holds: code * SCB / 127."""
    codes = stored.part("weight", (torch.int8,))
    largest = stored.part("SCB", _FLOATS, len(codes))
    with suppress(KeyError):  # old files lack it
        if stored.tensor(f"{stored.layer}.weight_format").any():
            raise stored.error(f"{stored.layer}.weight is not stored row by row", _QUANTIZE)
    low = -128 if (codes == -128).any() else -127  # bitsandbytes itself never writes -128
    scale = largest.float()[:, None] * (1 / 127)  # no division, as bitsandbytes has it
    return Quantized(codes.contiguous(), low, 127, scale)


def _groups(stored: _Stored, packing: Packing) -> Quantized:
    """Return the weights that GPTQ or AWQ hold: scale * (code - zero)."""
    words = stored.part("qweight", (torch.int32,))
    per_word = 32 // packing.bits
    gptq = packing.method == "gptq"  # packs along the inputs, AWQ along the outputs
    inputs, outputs = words.shape
    inputs, outputs = (inputs * per_word, outputs) if gptq else (inputs, outputs * per_word)
    group_size = inputs if packing.group_size is None else packing.group_size
    for count, kind, unit in ((inputs, "inputs", group_size), (outputs, "outputs", per_word)):
        if count % unit:
            reason = f"{stored.layer} has {count} {kind}, expected a multiple of {unit}"
            raise stored.error(reason, _QUANTIZE)
    if gptq:
        _check_order(stored, inputs, group_size)
    groups = inputs // group_size
    scale = stored.part("scales", _FLOATS, groups, outputs).T.float().contiguous()
    zeros = stored.part("qzeros", (torch.int32,), groups, outputs // per_word)
    zero = _unpacked(zeros, packing).T.float() + packing.zeros_less_one  # 15 + 1 is 16, not 0
    codes = _unpacked(words.T, packing) if gptq else _unpacked(words, packing).T.contiguous()
    low, high = (0, 15) if packing.bits == 4 else (-128, 127)
    return Quantized(codes, low, high, scale, -(scale * zero))


def _check_order(stored: _Stored, inputs: int, group_size: int) -> None:
    order = stored.part("g_idx", (torch.int32, torch.int64), inputs)
    if not torch.equal(order.long(), torch.arange(inputs, device=order.device) // group_size):
        raise stored.error(
            f"{stored.layer}.g_idx: the inputs of a group are not consecutive, as the checkpoint "
            "was made in activation order",
            f"take a checkpoint made with desc_act = false, or {_ORIGIN} with --weights int4",
        )


def _unpacked(words: Tensor, packing: Packing) -> Tensor:
    """Return the codes packed along the last dimension, int8; those of 8 bits less 128."""
    octets = words.contiguous().view(torch.uint8)  # the lowest first, as in the file
    if packing.bits == 8:
        return (octets ^ 128).view(torch.int8)
    codes = Grid(0, 15, packed=True).unpack(octets.view(-1)).view(len(words), -1)
    if packing.method == "gptq":
        return codes
    nibble_of = sorted(range(8), key=_AWQ_COLUMNS.__getitem__)
    return codes.view(len(words), -1, 8)[..., nibble_of].reshape(len(words), -1)
