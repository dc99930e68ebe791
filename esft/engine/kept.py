"""How the drift of one parameter is kept between steps: float32, scaled float16, int8 in blocks."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from esft.engine.kernels.reference import (
    BLOCK,
    LARGEST_SCALE,
    SMALLEST_SCALE,
    TOP_CODE,
    Stored,
    blocks,
    decay_,
    read,
)
from esft.engine.noise import random_bits
from esft.engine.weights import Weights

Put = Callable[[Tensor, Tensor], object]

# float16. float32 has 13 bits of mantissa more.
_DROPPED = (1 << 13) - 1
# Scaled values stay at or below 2**15, a factor of two under the largest float16; what is
# 2**-29 of the largest element and less is subnormal.
_TOP = 15
_LARGEST_EXPONENT = 100

# int8. Bits behind the point while a code is rounded: 127 and they fit int32, and float32 has no
# finer ones above 1.
_FRACTION = 23


class KeptDrift:
    """D of one parameter, all zeros at first; here with every bit of float32, 4 bytes an element.

    A step is one pass of `stored` and `write` over all pieces between `open_step` and
    `close_step`; a piece is read before it is written. Where the parts lie and what carries
    them to the device of the weights and back is the caller's business. `pin` keeps them in
    page-locked memory, for copies to cuda.
    """

    # Dtype of what is kept, and elements that share one number of it, by the suffix that a
    # snapshot gives the parameter's name.
    _layout: Mapping[str, tuple[torch.dtype, int]] = {"": (torch.float32, 1)}
    figures: Mapping[str, int | float] = {}
    """What is needed to read the tensors besides themselves; replaced, never changed."""
    largest = 0.0
    """No element is larger; 0 where `open_step` need not know it."""
    next_factor = 1.0
    """During a step: what a piece that was written is to be multiplied by; see `Stored`."""

    def __init__(
        self, name: str, numel: int, device: torch.device | str = "cpu", pin: bool = False
    ) -> None:
        self._name = name
        self.tensors = {
            suffix: torch.zeros(-(-numel // share), dtype=dtype, device=device, pin_memory=pin)
            for suffix, (dtype, share) in self._layout.items()
        }

    def parts(self, start: int, count: int) -> tuple[Tensor, ...]:
        """Return views of what is kept of some elements; `start` is a multiple of BLOCK."""
        shares = zip(self.tensors.values(), self._layout.values(), strict=True)
        return tuple(t[start // share : -(-(start + count) // share)] for t, (_, share) in shares)

    def stored(self, parts: Sequence[Tensor]) -> Stored:
        """Return how D lies in `parts`, on whatever device they are."""
        return Stored(*parts)

    def write(self, start: int, values: Tensor, seed: int, put: Put) -> Tensor:
        """Keep `values`, float32 of shape (count,), overwritten; return them as they are kept.

        `seed` is that of this step's rounding. `put` copies its second tensor, never written
        again, into its first, one of the `parts`.
        """
        put(*self.parts(start, values.numel()), values)
        return values

    def clear(self) -> None:
        """Make all of D zero, as at first."""
        for tensor in self.tensors.values():
            tensor.zero_()
        self.figures = type(self).figures

    def open_step(self, largest_update: float) -> None:
        """Prepare for a pass in which no element grows by more than `largest_update`."""

    def close_step(self, largest: float) -> None:
        """End the pass; `largest` is the largest magnitude that was given to `write`."""

    def decay_alone(self, pull: float, norm: str) -> bool:
        """Make a decay without an update if that needs no pass; return whether it is made."""
        return False

    def be(self, other: "KeptDrift") -> None:
        """Become what another of the same kind and size is, to the bit."""
        for suffix, tensor in self.tensors.items():
            tensor.copy_(other.tensors[suffix])
        self.figures = other.figures


class _Float16(KeptDrift):
    """float16 times a power of two, rounded stochastically, two bytes an element.

    The power of two, one for the parameter, keeps small drifts out of the subnormals.
    """

    _layout: Mapping = {"": (torch.float16, 1)}
    figures: Mapping[str, int | float] = {"exponent": 0, "largest": 0.0}

    @property
    def largest(self) -> float:
        return self.figures["largest"]

    def stored(self, parts: Sequence[Tensor]) -> Stored:
        return Stored(*parts, factor=2.0 ** -self.figures["exponent"])

    def open_step(self, largest_update: float) -> None:
        # What brings the largest value that may come close below 2**_TOP.
        largest = self.largest + largest_update
        exponent = _TOP - math.frexp(largest)[1] if largest else 0
        self._next_exponent = max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, exponent))
        self.next_factor = 2.0**-self._next_exponent

    def write(self, start: int, values: Tensor, seed: int, put: Put) -> Tensor:
        values.mul_(1 / self.next_factor)
        # To the 11 significant bits of float16, up or down by chance.
        chance = random_bits("rounding", seed, self._name, start, values.numel(), values.device)
        chance &= _DROPPED
        bits = values.view(torch.int32)
        bits += chance
        bits &= ~_DROPPED
        # Below the normals of float16 this rounds once more.
        kept = values.to(torch.float16)
        put(*self.parts(start, values.numel()), kept)
        return read(Stored(kept, factor=self.next_factor))

    def close_step(self, largest: float) -> None:
        self.figures = {"exponent": self._next_exponent, "largest": largest}


class _Int8(KeptDrift):
    """Codes -127 to 127 times a float32 scale for each block of 256, 1.016 bytes an element.

    scale = largest magnitude of the block / 127, and 0 for a block of zeros. An element that
    is 0 stays 0.

    A decay without an update changes no code, hence rounds nothing by chance: L2 multiplies the
    scales, and L1 adds its pull to what each element is still `owed` to be shrunk by, one
    number for the parameter, taken off wherever D is read. A block whose scale L2 brings
    below 2**-120 becomes zero.
    """

    _layout: Mapping = {"": (torch.int8, 1), ":scales": (torch.float32, BLOCK)}
    figures: Mapping[str, int | float] = {"owed": 0.0}

    def stored(self, parts: Sequence[Tensor]) -> Stored:
        return Stored(*parts, owed=self.figures["owed"])

    def write(self, start: int, values: Tensor, seed: int, put: Put) -> Tensor:
        scales = torch.empty(-(-values.numel() // BLOCK), device=values.device)
        for block, scale in blocks(values, scales):
            torch.amax(block.abs(), 1, keepdim=True, out=scale)
        nonzero = scales > 0
        # A product: dividing by a number is a product on some devices, and rounds otherwise.
        scales *= 1 / TOP_CODE
        scales.clamp_(SMALLEST_SCALE, LARGEST_SCALE).mul_(nonzero)
        for block, scale in blocks(values, scales.clamp(min=SMALLEST_SCALE)):
            block /= scale
        codes = random_bits("rounding", seed, self._name, start, values.numel(), values.device)
        codes &= (1 << _FRACTION) - 1
        values.clamp_(-TOP_CODE, TOP_CODE).mul_(1 << _FRACTION).round_()
        codes += values.to(torch.int32)
        codes >>= _FRACTION  # rounds down: what chance added makes it up or down
        codes = codes.to(torch.int8)
        kept_codes, kept_scales = self.parts(start, values.numel())
        put(kept_codes, codes)
        put(kept_scales, scales)
        return read(Stored(codes, scales))

    def close_step(self, largest: float) -> None:
        self.figures = {"owed": 0.0}

    def decay_alone(self, pull: float, norm: str) -> bool:
        owed = self.figures["owed"]
        if norm == "l1":
            self.figures = {"owed": owed + pull}
            return True
        scales = self.tensors[":scales"]
        decay_(scales, pull, norm)
        scales *= scales >= SMALLEST_SCALE
        self.figures = {"owed": owed - owed * pull}
        return True


def close_steps(kept: Mapping[str, KeptDrift], peaks: Iterable[tuple[str, float]]) -> None:
    """End the pass of every parameter, with the largest magnitudes of its pieces by its name."""
    largest = dict.fromkeys(kept, 0.0)
    for name, peak in peaks:
        largest[name] = max(largest[name], peak)
    for name, one in kept.items():
        one.close_step(largest[name])


def kept_bytes(kind: str, numel: int) -> int:
    """Return the bytes that a drift of one parameter takes, kept as one of `KINDS`; 0 of others."""
    if kind not in KINDS:
        return 0
    layout = KINDS[kind]._layout.values()
    return sum(-(-numel // share) * dtype.itemsize for dtype, share in layout)


KINDS = {"float32": KeptDrift, "float16": _Float16, "int8": _Int8}
"""The ways to keep a drift.

float16 and int8 are rounded stochastically from the noise function (seeded by the parameter's
name too, replayable), so that a decay far below their step still acts on average.
"""

DRIFT_STORES = ("cpu", "device")
"""Where a drift lies: in host memory or on the weights' device."""


def zeros(weights: Weights, kind: str, store: str) -> dict[str, KeptDrift]:
    """Return a drift of 0 of every parameter, one of `KINDS` in one of `DRIFT_STORES`; ValueError
    if these are others."""
    if store not in DRIFT_STORES:
        raise ValueError(f"drift_store is {store!r}, expected one of {', '.join(DRIFT_STORES)}")
    if kind not in KINDS:
        raise ValueError(f"dtype is {kind!r}, expected one of {', '.join(KINDS)}")
    made = {}
    for name in weights.names:
        flat = weights.flat(name)
        device = flat.device if store == "device" else torch.device("cpu")
        pin = flat.is_cuda and device.type == "cpu"
        made[name] = KINDS[kind](name, weights.count(name), device, pin)
    return made
