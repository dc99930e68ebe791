"""How the drift of one parameter is kept between steps."""

import math

import torch
from torch import Tensor

from esft.engine.noise import random_bits

KINDS = {"float32": torch.float32, "float16": torch.float16}

# float32 has 13 bits of mantissa more than float16.
_DROPPED = (1 << 13) - 1
# Scaled values stay at or below 2**15, a factor of two under the largest float16; what is
# 2**-29 of the largest element and less is subnormal.
_TOP = 15
_LARGEST_EXPONENT = 100


class KeptDrift:
    """D of one parameter, all zeros at first.

    float32 is kept as it is. float16 is kept times a power of two, which keeps small drifts out
    of the subnormals, and rounded stochastically from the noise function (seeded, replayable),
    so that a decay far below its step still acts on average.

    Args:
        name: canonical name of the parameter; the rounding draws from it.
        numel: elements.
        kind: "float32" or "float16".
        pin: keep it in page-locked memory, for copies to cuda.

    Raises:
        ValueError: if the kind is unknown.
    """

    def __init__(self, name: str, numel: int, kind: str, pin: bool = False) -> None:
        if kind not in KINDS:
            raise ValueError(f"dtype is {kind!r}, expected one of {', '.join(KINDS)}")
        self._name = name
        self._values = torch.zeros(numel, dtype=KINDS[kind], pin_memory=pin)  # (numel,)
        self._scaled = kind == "float16"
        self._exponent = self._next_exponent = 0
        self._largest = self._next_largest = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return self._values.nbytes

    def open_step(self, largest_update: float) -> None:
        """Prepare for one pass of `read` and `write` over the whole parameter.

        Args:
            largest_update: no element grows by more than this in the pass.
        """
        self._next_largest = 0.0
        if self._scaled:
            self._next_exponent = _exponent_for(self._largest + largest_update)

    def close_step(self) -> None:
        """End the pass: what was written is what is read from now on."""
        self._exponent, self._largest = self._next_exponent, self._next_largest

    def read(self, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Return elements of D as float32 of shape (count,), a tensor of the caller's own."""
        values = torch.empty(count, dtype=torch.float32, device=device)
        values.copy_(self._values[start : start + count])
        return values.mul_(2.0**-self._exponent) if self._scaled else values

    def write(self, start: int, values: Tensor, seed: int) -> Tensor:
        """Keep `values` (float32, overwritten) from `start`; return them as they are kept.

        Args:
            start: first element.
            values: float32 of shape (count,), on any device.
            seed: of this step's rounding.
        """
        self._next_largest = max(self._next_largest, float(values.abs().max()))
        into = self._values[start : start + values.numel()]
        if not self._scaled:
            into.copy_(values)
            return values
        values.mul_(2.0**self._next_exponent)
        _round_to_float16_(values, seed, self._name, start)
        into.copy_(values)
        # Below the normals of float16 the copy rounds once more.
        kept = values.to(torch.float16).to(torch.float32)
        return kept.mul_(2.0**-self._next_exponent)


def _exponent_for(largest: float) -> int:
    """Return the exponent that brings values of at most `largest` close below 2**_TOP."""
    if largest == 0:
        return 0
    exponent = _TOP - math.frexp(largest)[1]
    return max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, exponent))


def _round_to_float16_(values: Tensor, seed: int, name: str, start: int) -> None:
    """Round float32 stochastically to the 11 significant bits of float16, in place."""
    chance = random_bits("rounding", seed, name, start, values.numel(), values.device)
    chance &= _DROPPED
    bits = values.view(torch.int32)
    bits += chance
    bits &= ~_DROPPED
