"""How the drift of one parameter is kept between steps."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from esft.engine.kept_float import KeptFloat16, KeptFloat32
from esft.engine.kept_int8 import KeptInt8

_KINDS = {"float32": KeptFloat32, "float16": KeptFloat16, "int8": KeptInt8}

KINDS = tuple(_KINDS)
"""Names of the ways to keep a drift."""


class KeptDrift(Protocol):
    """D of one parameter, all zeros at first.

    A step is one pass of `read` and `write` over all pieces between `open_step` and
    `close_step`; a piece is read before it is written. Where the parts lie and what carries
    them to the device of the weights and back is the caller's business.
    """

    @property
    def nbytes(self) -> int:
        """Bytes kept."""

    def parts(self, start: int, count: int) -> tuple[Tensor, ...]:
        """Return views of what is kept of some elements; `start` is a multiple of PIECE_STEP."""

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        """Return D of `parts`, on their device: float32 of shape (count,), the caller's own."""

    def open_step(self, largest_update: float) -> None:
        """Prepare for a pass in which no element grows by more than `largest_update`."""

    def write(
        self, start: int, values: Tensor, seed: int, put: Callable[[Tensor, Tensor], object]
    ) -> Tensor:
        """Keep `values` from element `start`; return them as they are kept.

        Args:
            start: first element, a multiple of PIECE_STEP.
            values: float32 of shape (count,), on any device; overwritten.
            seed: of this step's rounding.
            put: copies its second tensor into its first, which is one of the `parts`; the
                second is never written again.
        """

    def close_step(self, largest: float) -> None:
        """End the pass: what was written is what is read from now on.

        Args:
            largest: magnitude of the largest element that was given to `write`.
        """

    def decay_alone(self, pull: float, norm: str) -> bool:
        """Make a decay without an update if that needs no pass; return whether it is made."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what is kept, by the suffix that a snapshot gives the parameter's name."""

    def figures(self) -> dict[str, int | float]:
        """Return what else is needed to read it."""

    def set_figures(self, figures: dict[str, int | float]) -> None:
        """Take figures that go with what was copied into `tensors`."""


def kept_drift(
    name: str, numel: int, kind: str, device: torch.device | str = "cpu", pin: bool = False
) -> KeptDrift:
    """Return D = 0 of one parameter, to be kept as `kind`.

    float32 is kept as it is. float16 and int8 are rounded stochastically from the noise function
    (seeded, replayable), so that a decay far below their step still acts on average.

    Args:
        name: canonical name of the parameter; the rounding draws from it.
        numel: elements.
        kind: one of `KINDS`.
        device: where it lies.
        pin: keep it in page-locked memory, for copies to cuda.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind not in _KINDS:
        raise ValueError(f"dtype is {kind!r}, expected one of {', '.join(KINDS)}")
    return _KINDS[kind](name, numel, device, pin)
