"""The tensors of a .gguf file as the parameters of a model, codes as they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esft.errors import ModelError
from esft.models.coded_model import (
    can_be_codes,
    empty_model,
    filled,
    on_meta,
    put_codes_,
    require_codes,
    tie_codes_,
)
from esft.models.gguf_blocks import KINDS, codes_of, with_codes

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

    from esft.engine.codes import Quantized


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """A tensor of a file, and the parameter that transformers makes of it."""

    name: str  # in the file
    parameter: str
    kind: str  # of its blocks
    blocks: np.ndarray  # (rows, bytes of a row), of the mapped file
    places: np.ndarray | None
    """Which row, or number, of the file each one of the parameter is; None where they are not the
    same in another order."""
    matrix: bool  # of a plain linear layer or embedding
    processed: Callable[[np.ndarray], np.ndarray]
    """What transformers makes of its floats."""

    @property
    def coded(self) -> bool:
        """Whether the parameter can be the codes that the file has."""
        return self.matrix and self.places is not None and self.kind in KINDS

    def quantized(self) -> Quantized:
        """Return the parameter as codes."""
        return codes_of(self.blocks[self.places], self.kind)

    def floats(self) -> Tensor:
        """Return the parameter as floats; ModelError if blocks of its type cannot be read."""
        import torch
        from gguf import GGMLQuantizationType, dequantize

        try:
            values = dequantize(self.blocks, GGMLQuantizationType[self.kind])
        except NotImplementedError as error:
            raise ModelError(
                f"{self.name} has blocks of type {self.kind}, which cannot be read",
                hint=f"take a file of another type, such as {', '.join(KINDS)}",
            ) from error
        return torch.from_numpy(np.array(self.processed(values)))

    def blocks_with(self, codes: np.ndarray) -> np.ndarray:
        """Return the blocks with the codes of the parameter, int8 (rows, columns), in them."""
        blocks = self.blocks.copy()
        blocks[self.places] = with_codes(self.blocks[self.places], self.kind, codes)
        return blocks


def gguf_model(
    path: Path, config: PreTrainedConfig, dtype: torch.dtype
) -> tuple[PreTrainedModel, list[str]]:
    """Return the model of a .gguf file, its matrices as the codes that they are there, and what to
    tell of those that are not.

    Raises:
        ModelError: see `filled`; also of a type of block that cannot be read.
    """
    name = str(path)
    model = empty_model(config, dtype, name)
    tensors = tensors_of(path, model)
    values = ((one.parameter, one.quantized if one.coded else one.floats()) for one in tensors)
    filled(model, values, dtype, name)
    plain = sorted({one.kind for one in tensors if one.matrix and not one.coded})
    return model, [f"matrices of type {', '.join(plain)} stay as they are"] if plain else []


def gguf_outline_(path: Path, model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Make the matrices of a model on the meta device codes, as they are in a .gguf file."""
    for one in tensors_of(path, model):
        if one.coded:
            first = codes_of(one.blocks[:1], one.kind)
            shape = len(one.blocks), first.codes.shape[1]
            put_codes_(model, one.parameter.rpartition(".")[0], on_meta(first, shape), dtype)
    tie_codes_(model)
    require_codes(model, str(path))


def tensors_of(path: Path, model: PreTrainedModel) -> list[GgufTensor]:
    """Return the tensors of a file that are parameters of the model of its config.

    Names, and what becomes of the order of rows, are as transformers has them: it is asked what it
    makes of the numbers of the rows.
    """
    import gguf
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
        load_gguf_checkpoint,
        read_field,
    )

    file = str(path.resolve())
    reader = gguf.GGUFReader(file)
    architecture = read_field(reader, "general.architecture")[0]
    facts = load_gguf_checkpoint(file)
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=facts["config"])
    names = get_gguf_hf_weights_map(model, processor)
    return list(_matched(reader, model, processor, names, path))


def _matched(
    reader: Any, model: PreTrainedModel, processor: Any, names: Mapping[str, str], path: Path
) -> Iterator[GgufTensor]:
    known = dict(model.named_parameters())
    for tensor in reader.tensors:

        def processed(values: np.ndarray, name: str = tensor.name) -> np.ndarray:
            elsewhere: dict = {"tensors": {}}
            options = {"tensor_key_mapping": names, "parsed_parameters": elsewhere}
            made = processor.process(weights=values, name=name, **options)
            if elsewhere["tensors"]:  # a part of a larger parameter, such as one of all experts
                raise ModelError(
                    f"{path}: {name} is one part of a parameter, which codes are not read into",
                    hint="leave --weights out: its weights are dequantized to floats then",
                )
            return made.weights

        parameter = names.get(tensor.name)
        if parameter not in known:
            continue
        layer, _, kind = parameter.rpartition(".")
        yield GgufTensor(
            name=tensor.name,
            parameter=parameter,
            kind=tensor.tensor_type.name,
            blocks=tensor.data,
            places=_order(processed, len(tensor.data), len(tensor.shape)),
            matrix=kind == "weight" and len(tensor.shape) == 2 and can_be_codes(model, layer),
            processed=processed,
        )


def _order(
    processed: Callable[[np.ndarray], np.ndarray], count: int, dimensions: int
) -> np.ndarray | None:
    """Return which row of the file, of `count`, each row of a parameter is; see `places`."""
    numbers = np.arange(count, dtype=np.float64)
    if dimensions == 2:
        # The second column tells columns that change places, or are computed with.
        numbers = np.stack((numbers, numbers + count), 1)
    made = processed(numbers)
    if made.shape != numbers.shape:
        return None
    rows = made.reshape(count, -1)[:, 0]
    if not np.array_equal(np.sort(rows), np.arange(count)):
        return None
    rows = rows.astype(np.int64)
    return rows if np.array_equal(numbers[rows], made) else None
