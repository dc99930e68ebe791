"""How large a model is: what decides the memory that its weights and its batches take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Of an element, by dtype."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a model in the dtype of its weights."""

    parameters: Mapping[str, tuple[int, ...]]
    """Shape of each floating-point parameter by canonical name, tied ones once."""
    dtype: str
    layers: int
    hidden: int
    intermediate: int  # of the feed-forward part
    heads: int  # of the queries, each as wide as one of the keys
    kv_heads: int
    head: int
    vocabulary: int
    codes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each matrix of codes that can be tuned, without scales, by the name in `parameters`
    that its elements have."""
    coded: Mapping[str, int] = field(default_factory=dict)
    """Bytes of all matrices that are codes, with scales, by such names."""

    @property
    def numel(self) -> int:
        return sum(map(math.prod, self.parameters.values()))

    @property
    def itemsize(self) -> int:
        return BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        floats = sum(math.prod(s) for name, s in self.parameters.items() if name not in self.coded)
        return floats * self.itemsize + sum(self.coded.values())

    @property
    def saved_nbytes(self) -> int:
        """Bytes of the weights as they are saved: floats."""
        return self.numel * self.itemsize

    def tuned_nbytes(self, tuned: int) -> int:
        """Bytes of so many of the elements that can be tuned."""
        if not self.codes:
            return tuned * self.itemsize
        numel = sum(math.prod(self.parameters[name]) for name in self.codes)
        return -(-tuned * sum(self.codes.values()) // numel)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in the cache, in all layers."""
        return 2 * self.layers * self.kv_heads * self.head * self.itemsize


def shape_of(model: PreTrainedModel) -> Shape:
    """Return the shape of a model, also of one on torch's meta device."""
    from esft.engine.coded import coded_of

    config = model.config.get_text_config()
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None)
    head = getattr(config, "head_dim", None)
    intermediate = getattr(config, "intermediate_size", None)
    coded = coded_of(model)
    parameters = {
        name: coded[name].shape if name in coded else tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if name in coded or parameter.is_floating_point()
    }
    return Shape(
        parameters=parameters,
        codes={name: one.weight.nbytes for name, one in coded.items() if one.tuned},
        coded={name: one.nbytes for name, one in coded.items()},
        dtype=str(model.dtype).removeprefix("torch."),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=4 * config.hidden_size if intermediate is None else intermediate,
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        head=config.hidden_size // heads if head is None else head,
        vocabulary=config.vocab_size,
    )


# Parameters; layers, hidden and intermediate size, heads, key and value heads, head size and
# vocabulary, as the config.json of each gives them.
_PUBLISHED = {
    "SmolLM2-135M": (134_515_008, 30, 576, 1536, 9, 3, 64, 49_152),
    "Qwen2.5-0.5B": (494_032_768, 24, 896, 4864, 14, 2, 64, 151_936),
    "Qwen3-0.6B": (596_049_920, 28, 1024, 3072, 16, 8, 128, 151_936),
    "Llama-3.2-1B": (1_235_814_400, 16, 2048, 8192, 32, 8, 64, 128_256),
    "Qwen2.5-1.5B": (1_543_714_304, 28, 1536, 8960, 12, 2, 128, 151_936),
    "SmolLM2-1.7B": (1_711_376_384, 24, 2048, 8192, 32, 32, 64, 49_152),
    "Qwen3-1.7B": (1_720_574_976, 28, 2048, 6144, 16, 8, 128, 151_936),
    "Qwen2.5-3B": (3_085_938_688, 36, 2048, 11_008, 16, 2, 128, 151_936),
    "Llama-3.2-3B": (3_212_749_824, 28, 3072, 8192, 24, 8, 128, 128_256),
    "Qwen3-4B": (4_022_468_096, 36, 2560, 9728, 32, 8, 128, 151_936),
    "Qwen2.5-7B": (7_615_616_512, 28, 3584, 18_944, 28, 4, 128, 152_064),
    "Llama-3.1-8B": (8_030_261_248, 32, 4096, 14_336, 32, 8, 128, 128_256),
    "Qwen3-8B": (8_190_735_360, 36, 4096, 12_288, 32, 8, 128, 151_936),
    "Qwen2.5-14B": (14_770_033_664, 48, 5120, 13_824, 40, 8, 128, 152_064),
    "Qwen3-14B": (14_768_307_200, 40, 5120, 17_408, 40, 8, 128, 151_936),
}


def published_shapes() -> dict[str, Shape]:
    """Return models that people use, by name, in the dtype they are published in: bfloat16."""
    keys = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head", "vocabulary")
    return {
        name: Shape(
            parameters={"all": (numel,)}, dtype="bfloat16", **dict(zip(keys, sizes, strict=True))
        )
        for name, (numel, *sizes) in _PUBLISHED.items()
    }
