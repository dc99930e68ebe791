"""What a step finds out about the drift on its way, read from the device once at its end."""

import torch
from torch import Tensor


class Tally:
    """The largest element of each parameter and the sum of squares over all of them.

    Nothing waits for the device before the figures are asked for. On a CPU there is nothing to
    wait for, and figures are read at once: small tensors that stay, made between large ones that
    go, would keep the memory of the large ones in pieces (measured: half a gigabyte on 135 M
    weights).
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._peaks: list[Tensor | float] = []
        self._norms: list[Tensor | float] = []

    def note_peak(self, name: str, values: Tensor) -> None:
        """Note the largest magnitude in `values`, float32 of any shape."""
        self._names.append(name)
        self._peaks.append(noted(values.abs().max()))

    def note_norm(self, values: Tensor) -> None:
        """Note the sum of squares of `values`, float32 of any shape."""
        # mps has no float64; pieces are short enough for float32.
        dtype = torch.float32 if values.device.type == "mps" else torch.float64
        self._norms.append(noted(torch.linalg.vector_norm(values, dtype=dtype)))

    def peaks(self) -> dict[str, float]:
        """Return the largest magnitude noted of each parameter."""
        peaks: dict[str, float] = {}
        for name, peak in zip(self._names, read(self._peaks), strict=True):
            peaks[name] = max(peaks.get(name, 0.0), peak)
        return peaks

    def squares(self) -> float:
        """Return the sum of squares, the parts added in the order they were noted in."""
        total = 0.0
        for norm in read(self._norms):
            total += norm**2
        return total


def noted(scalar: Tensor) -> Tensor | float:
    """Return a scalar as it is to be kept for a while: on a CPU its value, see `Tally`."""
    return float(scalar) if scalar.device.type == "cpu" else scalar


def read(scalars: list[Tensor | float]) -> list[float]:
    """Return what `noted` kept, read from the device once."""
    if scalars and isinstance(scalars[0], Tensor):
        return torch.stack(scalars).tolist()
    return list(scalars)
