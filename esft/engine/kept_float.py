"""A drift kept in floating point: float32 as it is, float16 scaled and rounded by chance."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from esft.engine.noise import random_bits

# float32 has 13 bits of mantissa more than float16.
_DROPPED = (1 << 13) - 1
# Scaled values stay at or below 2**15, a factor of two under the largest float16; what is
# 2**-29 of the largest element and less is subnormal.
_TOP = 15
_LARGEST_EXPONENT = 100


class KeptFloat32:
    """See `KeptDrift`: every bit of float32, four bytes an element."""

    def __init__(self, name: str, numel: int, device: torch.device | str, pin: bool) -> None:
        self._values = torch.zeros(numel, dtype=torch.float32, device=device, pin_memory=pin)

    @property
    def nbytes(self) -> int:
        return self._values.nbytes

    def parts(self, start: int, count: int) -> tuple[Tensor, ...]:
        return (self._values[start : start + count],)

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0].clone()

    def open_step(self, largest_update: float) -> None:
        pass

    def write(
        self, start: int, values: Tensor, seed: int, put: Callable[[Tensor, Tensor], object]
    ) -> Tensor:
        put(self._values[start : start + values.numel()], values)
        return values

    def close_step(self, largest: float) -> None:
        pass

    def decay_alone(self, pull: float, norm: str) -> bool:
        return False

    def tensors(self) -> dict[str, Tensor]:
        return {"": self._values}

    def figures(self) -> dict[str, int | float]:
        return {}

    def set_figures(self, figures: dict[str, int | float]) -> None:
        pass


class KeptFloat16:
    """See `KeptDrift`: float16 times a power of two, rounded stochastically, two bytes an element.

    The power of two, one for the parameter, keeps small drifts out of the subnormals.
    """

    def __init__(self, name: str, numel: int, device: torch.device | str, pin: bool) -> None:
        self._name = name
        self._values = torch.zeros(numel, dtype=torch.float16, device=device, pin_memory=pin)
        self._exponent = self._next_exponent = 0
        self._largest = 0.0

    @property
    def nbytes(self) -> int:
        return self._values.nbytes

    def parts(self, start: int, count: int) -> tuple[Tensor, ...]:
        return (self._values[start : start + count],)

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0].to(torch.float32).mul_(2.0**-self._exponent)

    def open_step(self, largest_update: float) -> None:
        self._next_exponent = _exponent_for(self._largest + largest_update)

    def write(
        self, start: int, values: Tensor, seed: int, put: Callable[[Tensor, Tensor], object]
    ) -> Tensor:
        values.mul_(2.0**self._next_exponent)
        _round_to_float16_(values, seed, self._name, start)
        # Below the normals of float16 this rounds once more.
        kept = values.to(torch.float16)
        put(self._values[start : start + values.numel()], kept)
        return kept.to(torch.float32).mul_(2.0**-self._next_exponent)

    def close_step(self, largest: float) -> None:
        self._exponent, self._largest = self._next_exponent, largest

    def decay_alone(self, pull: float, norm: str) -> bool:
        return False

    def tensors(self) -> dict[str, Tensor]:
        return {"": self._values}

    def figures(self) -> dict[str, int | float]:
        return {"exponent": self._exponent, "largest": self._largest}

    def set_figures(self, figures: dict[str, int | float]) -> None:
        self._exponent, self._largest = int(figures["exponent"]), float(figures["largest"])


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
