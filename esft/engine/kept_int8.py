"""A drift kept in int8: blocks of 256 codes that share a scale, rounded by chance."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from esft.engine.decay import decay_
from esft.engine.noise import random_bits
from esft.engine.weights import PIECE_STEP

BLOCK = PIECE_STEP
"""Elements that share a scale, counted from the start of the parameter."""

_TOP_CODE = 127
# Bits behind the point while a code is rounded: 127 and they fit int32, and float32 has no
# finer ones above 1.
_FRACTION = 23
# So that neither a scale nor scale * pull loses bits to the subnormals, and 127 scales are finite:
# drifts up to 1e-34 are kept more coarsely, and drifts above 3.3e38 as 3.3e38.
_SMALLEST_SCALE = 2.0**-120
_LARGEST_SCALE = 2.0**121


class KeptInt8:
    """See `KeptDrift`: codes -127 to 127 times a float32 scale, 1.016 bytes an element.

    scale = largest magnitude of the block / 127, and 0 for a block of zeros. An element that
    is 0 stays 0.

    A decay without an update changes no code, hence rounds nothing by chance: L2 multiplies the
    scales, and L1 adds its pull to what each element is still `owed` to be shrunk by, one
    number for the parameter, taken off wherever D is read. A block whose scale L2
    brings below 2**-120 becomes zero.
    """

    def __init__(self, name: str, numel: int, device: torch.device | str, pin: bool) -> None:
        self._name = name
        self._codes = torch.zeros(numel, dtype=torch.int8, device=device, pin_memory=pin)
        self._scales = torch.zeros(
            _blocks_in(numel), dtype=torch.float32, device=device, pin_memory=pin
        )
        self._owed = 0.0

    @property
    def nbytes(self) -> int:
        return self._codes.nbytes + self._scales.nbytes

    def parts(self, start: int, count: int) -> tuple[Tensor, ...]:
        first = start // BLOCK
        blocks = slice(first, first + _blocks_in(count))
        return self._codes[start : start + count], self._scales[blocks]

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        codes, scales = parts
        values = _times_scales(codes, scales)
        decay_(values, self._owed, "l1")
        return values

    def open_step(self, largest_update: float) -> None:
        pass

    def write(
        self, start: int, values: Tensor, seed: int, put: Callable[[Tensor, Tensor], object]
    ) -> Tensor:
        scales = _scales_for(values)
        for block, scale in _blocks(values, scales.clamp(min=_SMALLEST_SCALE)):
            block /= scale
        chance = random_bits("rounding", seed, self._name, start, values.numel(), values.device)
        codes = _rounded_by(chance, values)
        kept_codes, kept_scales = self.parts(start, values.numel())
        put(kept_codes, codes)
        put(kept_scales, scales)
        return _times_scales(codes, scales)

    def close_step(self, largest: float) -> None:
        self._owed = 0.0

    def decay_alone(self, pull: float, norm: str) -> bool:
        if norm == "l1":
            self._owed += pull
            return True
        decay_(self._scales, pull, norm)
        self._scales *= self._scales >= _SMALLEST_SCALE
        self._owed -= self._owed * pull
        return True

    def tensors(self) -> dict[str, Tensor]:
        return {"": self._codes, ":scales": self._scales}

    def figures(self) -> dict[str, int | float]:
        return {"owed": self._owed}

    def set_figures(self, figures: dict[str, int | float]) -> None:
        self._owed = float(figures["owed"])


def _blocks_in(numel: int) -> int:
    return -(-numel // BLOCK)


def _blocks(values: Tensor, scales: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield views of the whole blocks (n, BLOCK) and scales (n, 1), then of a shorter last one."""
    whole = values.numel() // BLOCK
    if whole:
        yield values[: whole * BLOCK].view(whole, BLOCK), scales[:whole].view(whole, 1)
    if values.numel() % BLOCK:
        yield values[whole * BLOCK :].view(1, -1), scales[whole:].view(1, 1)


def _scales_for(values: Tensor) -> Tensor:
    """Return the scale of each block of `values`, shape (blocks,)."""
    scales = torch.empty(_blocks_in(values.numel()), device=values.device)
    for block, scale in _blocks(values, scales):
        torch.amax(block.abs(), 1, keepdim=True, out=scale)
    some = scales > 0
    # A product: dividing by a number is a product on some devices, and rounds otherwise.
    scales *= 1 / _TOP_CODE
    return scales.clamp_(_SMALLEST_SCALE, _LARGEST_SCALE).mul_(some)


def _rounded_by(chance: Tensor, values: Tensor) -> Tensor:
    """Return the codes that `values`, overwritten, are rounded to: up or down by `chance`."""
    values.clamp_(-_TOP_CODE, _TOP_CODE).mul_(1 << _FRACTION).round_()
    chance &= (1 << _FRACTION) - 1
    chance += values.to(torch.int32)
    chance >>= _FRACTION
    return chance.to(torch.int8)


def _times_scales(codes: Tensor, scales: Tensor) -> Tensor:
    values = codes.to(torch.float32)
    for block, scale in _blocks(values, scales):
        block *= scale
    return values
