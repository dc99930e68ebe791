"""Weights as whole numbers of steps of a grid: their codes, packed and unpacked."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The codes that a weight can have, `low` to `high`, and how they lie in memory."""

    low: int
    high: int
    packed: bool = False
    """Two codes a byte, uint8: `code - low`, the first of them in the lower four bits. Else int8,
    one code a byte."""

    @property
    def per_byte(self) -> int:
        return 2 if self.packed else 1

    def pack(self, codes: Tensor) -> Tensor:
        """Return codes, int8 of shape (n,) with n even where packed, as they lie in memory."""
        if not self.packed:
            return codes
        pairs = (codes - self.low).view(torch.uint8).view(-1, 2)
        return pairs[:, 0] | pairs[:, 1] << 4

    def unpack(self, stored: Tensor) -> Tensor:
        """Return what `pack` packed: int8 of shape (n,); of int8 the very tensor."""
        if not self.packed:
            return stored
        pairs = torch.stack((stored & 15, stored >> 4), 1).view(-1).view(torch.int8)
        return pairs.add_(self.low)


@dataclass(frozen=True)
class Quantized:
    """A matrix on a grid: scale * code + minimum, in float32, the product first.

    Groups of equal size along a row share a scale and a minimum.
    """

    codes: Tensor  # (rows, columns), int8, `low` to `high`
    low: int
    high: int
    scale: Tensor  # (rows, groups), float32 or float16
    minimum: Tensor | None = None  # as scale; None where it is 0

    def dequantized(self) -> Tensor:
        """Return the weights: float32 (rows, columns)."""
        rows, groups = self.scale.shape
        values = self.codes.view(rows, groups, -1).float() * self.scale.float()[..., None]
        if self.minimum is not None:
            values += self.minimum.float()[..., None]
        return values.view(rows, -1)
