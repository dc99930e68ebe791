"""The codes in the blocks of a .gguf tensor: out of the file's bytes, and back into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esft.engine.codes import Quantized


@dataclass(frozen=True)
class _Bits:
    """Some bits of every code of a block: bytes `start` to `stop` of the block's.

    Every `run` bytes hold consecutive codes of the row, plane by plane: the lowest `bits` of these
    bytes belong to the first `run` codes, the `bits` above them to the next `run`, and so on.
    """

    start: int
    stop: int
    bits: int
    run: int

    @property
    def planes(self) -> int:
        return 8 // self.bits

    def read(self, blocks: np.ndarray) -> np.ndarray:
        """Return these bits of each code: uint8 (blocks, codes of a block), below 2 ** bits."""
        runs = self._runs(blocks)
        numbers = np.empty((*runs.shape[:2], self.planes, self.run), np.uint8)
        for plane in range(self.planes):
            np.right_shift(runs, np.uint8(plane * self.bits), out=numbers[:, :, plane])
        numbers &= np.uint8(2**self.bits - 1)
        return numbers.reshape(len(blocks), -1)

    def write_(self, blocks: np.ndarray, numbers: np.ndarray) -> None:
        """Put numbers as `read` returns them into these bytes of the blocks, in place."""
        runs = self._runs(blocks)
        numbers = numbers.reshape(*runs.shape[:2], self.planes, self.run)
        runs[...] = numbers[:, :, 0]
        for plane in range(1, self.planes):
            runs |= numbers[:, :, plane] << np.uint8(plane * self.bits)

    def _runs(self, blocks: np.ndarray) -> np.ndarray:
        """Return the bytes as (blocks, runs, run): splitting one axis is a view, never a copy."""
        return blocks[:, self.start : self.stop].reshape(len(blocks), -1, self.run)


def _halves(blocks: np.ndarray, start: int) -> Tensor:
    """Return the float16 numbers at a byte of the blocks: (blocks, 1)."""
    return torch.from_numpy(blocks[:, start : start + 2].copy().view("<f2"))


def _scale(blocks: np.ndarray) -> tuple[Tensor, None]:
    """One float16 scale for the block."""
    return _halves(blocks, 0), None


def _scale_and_minimum(blocks: np.ndarray) -> tuple[Tensor, Tensor]:
    """One float16 scale and one float16 minimum for the block."""
    return _halves(blocks, 0), _halves(blocks, 2)


def _six_bit_factors(blocks: np.ndarray) -> tuple[Tensor, Tensor]:
    """Factors of 0 to 63 for eight groups, in 12 bytes: of the scale and of minus the minimum.

    The first four of each lie in the lower six bits of four bytes. The others have their lower four
    bits in the last four bytes, and their upper two above those of the first.
    """
    first, second, last = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.hstack((first & 63, last & 15 | first >> 6 << 4))
    minima = np.hstack((second & 63, last >> 4 | second >> 6 << 4))
    return (
        _halves(blocks, 0).float() * torch.from_numpy(scales).float(),
        -(_halves(blocks, 2).float() * torch.from_numpy(minima).float()),
    )


def _signed_factors(blocks: np.ndarray) -> tuple[Tensor, None]:
    """Factors of the scale, int8, for sixteen groups."""
    factors = torch.from_numpy(blocks[:, 192:208].copy().view(np.int8))
    return _halves(blocks, 208).float() * factors.float(), None


@dataclass(frozen=True)
class _Layout:
    """What lies where in a block."""

    size: int
    """Bytes of a block."""
    scales: Callable[[np.ndarray], tuple[Tensor, Tensor | None]]
    """Scales and minima of blocks: (blocks, groups of a block)."""
    parts: tuple[_Bits, ...]
    """The codes' bits, the lowest first."""
    zero: int = 0
    """The stored number of code 0. Codes of eight bits are stored in two's complement instead."""

    @property
    def bits(self) -> int:
        return sum(part.bits for part in self.parts)

    @property
    def low(self) -> int:
        return -128 if self.bits == 8 else -self.zero

    @property
    def high(self) -> int:
        return self.low + 2**self.bits - 1


# The fifth bits of Q5_0 and Q5_1 lie in the order of the codes: runs of one byte.
_LAYOUTS = {
    "Q8_0": _Layout(34, _scale, (_Bits(2, 34, 8, 32),)),
    "Q4_0": _Layout(18, _scale, (_Bits(2, 18, 4, 16),), zero=8),
    "Q4_1": _Layout(20, _scale_and_minimum, (_Bits(4, 20, 4, 16),)),
    "Q5_0": _Layout(22, _scale, (_Bits(6, 22, 4, 16), _Bits(2, 6, 1, 1)), zero=16),
    "Q5_1": _Layout(24, _scale_and_minimum, (_Bits(8, 24, 4, 16), _Bits(4, 8, 1, 1))),
    "Q4_K": _Layout(144, _six_bit_factors, (_Bits(16, 144, 4, 32),)),
    "Q5_K": _Layout(176, _six_bit_factors, (_Bits(48, 176, 4, 32), _Bits(16, 48, 1, 32))),
    "Q6_K": _Layout(210, _signed_factors, (_Bits(0, 128, 4, 64), _Bits(128, 192, 2, 32)), zero=32),
}
KINDS = tuple(_LAYOUTS)
"""The block types that can be read, by their names in `gguf.GGMLQuantizationType`."""


def codes_of(blocks: np.ndarray, kind: str) -> Quantized:
    """Return what blocks of a type hold; dequantized, it is bit for bit what gguf makes of them.

    Args:
        blocks: uint8 (rows, bytes of a row), as a GGUFReader has a tensor's data; not changed.
        kind: one of `KINDS`.

    Returns:
        Codes from 0 up where the type has minima, else signed. Scales and minima are float16 where
        the file has just these numbers, and float32 products for the K types.

    Raises:
        ValueError: if the type is not one of these, or a row is not a whole number of blocks.
    """
    layout = _layout(blocks, kind)
    rows = len(blocks)
    blocks = blocks.reshape(-1, layout.size)
    stored, shift = layout.parts[0].read(blocks), layout.parts[0].bits
    for part in layout.parts[1:]:
        stored |= part.read(blocks) << np.uint8(shift)
        shift += part.bits
    stored -= np.uint8(layout.zero)  # wraps below 0, to the two's complement
    scale, minimum = layout.scales(blocks)
    return Quantized(
        torch.from_numpy(stored.view(np.int8).reshape(rows, -1)),
        layout.low,
        layout.high,
        scale.view(rows, -1),
        minimum if minimum is None else minimum.view(rows, -1),
    )


def with_codes(blocks: np.ndarray, kind: str, codes: np.ndarray | Tensor) -> np.ndarray:
    """Return a copy of the blocks with other codes, and every other bit as it was.

    Args:
        blocks: uint8 (rows, bytes of a row); not changed.
        kind: one of `KINDS`.
        codes: int8 (rows, columns) on the CPU, as `codes_of` returns them.

    Raises:
        ValueError: as `codes_of`; also if a code is not one of the type's.
    """
    layout = _layout(blocks, kind)
    codes = np.asarray(codes)
    for code in (codes.min(), codes.max()):
        if not layout.low <= code <= layout.high:
            raise ValueError(f"{kind}: code {code}, expected {layout.low} to {layout.high}")
    result = blocks.copy()
    blocks = result.reshape(-1, layout.size)
    stored = codes.astype(np.uint8).reshape(len(blocks), -1)
    stored += np.uint8(layout.zero)
    shift = 0
    for part in layout.parts:
        part.write_(blocks, stored >> np.uint8(shift) & np.uint8(2**part.bits - 1))
        shift += part.bits
    return result


def _layout(blocks: np.ndarray, kind: str) -> _Layout:
    if kind not in _LAYOUTS:
        raise ValueError(f"blocks of type {kind}, expected one of {', '.join(KINDS)}")
    layout = _LAYOUTS[kind]
    if blocks.shape[1] % layout.size:
        raise ValueError(
            f"rows of {blocks.shape[1]} bytes, expected blocks of {layout.size} bytes ({kind})"
        )
    return layout
