"""Layers whose matrices are codes: read a tile at a time, so that no float copy of them exists."""

from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from esft.engine.codes import Grid, Quantized
from esft.engine.kernels import chosen_kernels

_TILE = {"cpu": 1 << 17}
"""Weights made numbers at a time, by kind of device: a tile that stays in the cache of a CPU."""
_LARGE_TILE = 1 << 24

_kernels_of = cache(chosen_kernels)
"""Asked for at every tile."""


class Coded(nn.Module):
    """A matrix on a grid: scale * code + minimum.

    `weight` holds the codes as they lie in memory, see `Grid`; `scale` and `minimum` are buffers.
    """

    def __init__(self, matrix: Quantized, dtype: torch.dtype, *, tuned: bool) -> None:
        super().__init__()
        self.rows, self.columns = matrix.codes.shape
        packed = matrix.high - matrix.low <= 15 and self.columns % 2 == 0
        self.grid = Grid(matrix.low, matrix.high, packed)
        self.tuned = tuned
        self.dtype = dtype
        """Of its weights where they are read whole, as on saving them."""
        stored = self.grid.pack(matrix.codes.reshape(-1)).view(self.rows, -1)
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.register_buffer("scale", matrix.scale.contiguous())
        minimum = None if matrix.minimum is None else matrix.minimum.contiguous()
        self.register_buffer("minimum", minimum)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return self.rows, self.columns

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and minima."""
        minimum = 0 if self.minimum is None else self.minimum.nbytes
        return self.weight.nbytes + self.scale.nbytes + minimum

    def codes(self) -> Tensor:
        """Return the codes: int8 (rows, columns)."""
        return self.grid.unpack(self.weight.data.view(-1)).view(self.shape)

    def values(self, first: int = 0, last: int | None = None) -> Tensor:
        """Return rows of the matrix as float32 (rows, columns)."""
        last = self.rows if last is None else last
        out = torch.empty(last - first, self.columns, device=self.weight.device)
        minimum = None if self.minimum is None else self.minimum[first:last]
        rows = self.weight[first:last], self.grid, self.scale[first:last]
        _kernels_of(self.weight.device).dequantize(out, *rows, minimum)
        return out

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Yield the first row of each tile, and the one after its last."""
        most = max(1, _TILE.get(self.weight.device.type, _LARGE_TILE) // self.columns)
        for first in range(0, self.rows, most):
            yield first, min(first + most, self.rows)


class CodedLinear(Coded):
    """A linear layer with such a matrix: x (*s, columns) -> (*s, rows)."""

    def __init__(
        self, matrix: Quantized, bias: Tensor | None, dtype: torch.dtype, *, tuned: bool = True
    ) -> None:
        super().__init__(matrix, dtype, tuned=tuned)
        self.in_features, self.out_features = self.columns, self.rows
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @classmethod
    def sharing(cls, other: Coded, bias: Tensor | None) -> "CodedLinear":
        """Return a layer with the very matrix of another module; it is not tuned."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.__dict__.update({k: v for k, v in vars(other).items() if not k.startswith("_")})
        layer.weight = other.weight
        layer.register_buffer("scale", other.scale)
        layer.register_buffer("minimum", other.minimum)
        layer.in_features, layer.out_features = other.columns, other.rows
        layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        return coded_linear(x, self.weight, self.bias, self)


def coded_linear(x: Tensor, codes: Tensor, bias: Tensor | None, layer: CodedLinear) -> Tensor:
    """Return x W^T + bias: (*s, columns) -> (*s, rows).

    `codes` and `bias` are those of `layer`: here for torch's modes, which see its functions, and
    this as one of them, but not what happens in it.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(coded_linear, (x,), x, codes, bias, layer)
    out = x.new_empty(*x.shape[:-1], layer.rows)
    for first, last in layer.tiles():
        part = None if bias is None else bias[first:last]
        out[..., first:last] = F.linear(x, layer.values(first, last).to(x.dtype), part)
    return out


class CodedEmbedding(Coded):
    """An embedding with such a matrix: tokens (*s) -> (*s, columns); it is not tuned."""

    def __init__(self, matrix: Quantized, dtype: torch.dtype) -> None:
        super().__init__(matrix, dtype, tuned=False)
        self.num_embeddings, self.embedding_dim = self.shape

    def forward(self, tokens: Tensor) -> Tensor:
        chosen = tokens.reshape(-1)
        out = torch.empty(chosen.numel(), self.columns, device=self.weight.device)
        minimum = None if self.minimum is None else self.minimum[chosen]
        rows = self.weight[chosen], self.grid, self.scale[chosen]
        _kernels_of(self.weight.device).dequantize(out, *rows, minimum)
        return out.to(self.dtype).view(*tokens.shape, self.columns)


def coded_of(model: nn.Module) -> dict[str, Coded]:
    """Return the modules of a model whose matrix is codes, by the name of that; tied ones once."""
    found: dict[str, Coded] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, Coded) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            found[f"{name}.weight"] = module
    return found
