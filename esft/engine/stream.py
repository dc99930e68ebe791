"""A pass over pieces: what carries their parts to the device and back, and what it finds out."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor

from esft.engine.weights import Piece

Parts = tuple[Tensor, ...]


class Stream:
    """Copies what is kept of pieces to the weights' device and back.

    On cuda, copies between host and device run on a stream of their own: while a piece is
    computed, the next one comes in and the one before it leaves. Host memory that is not
    page-locked, such as a mapped file, is read before the call that asks for it returns. On a
    CPU nothing is copied on the way in.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def brought(
        self, pieces: Iterable[Piece], parts_of: Callable[[Piece], Parts]
    ) -> Iterator[tuple[Piece, Parts]]:
        """Yield each piece with its parts on the device, one piece looked ahead on cuda."""
        if self._side is None:
            for piece in pieces:
                yield piece, self.moved(parts_of(piece))
            return
        here = None
        for ahead in chain(pieces, [None]):
            coming = None
            if ahead is not None:
                with torch.cuda.stream(self._side):
                    parts = tuple(p.to(self.device, non_blocking=True) for p in parts_of(ahead))
                    coming = ahead, parts, self._side.record_event()
            if here is not None:
                piece, parts, arrival = here
                stream = torch.cuda.current_stream(self.device)
                stream.wait_event(arrival)
                for part in parts:
                    # Made on the side stream: its memory is free only when the piece is computed.
                    part.record_stream(stream)
                yield piece, parts
            here = coming

    def moved(self, parts: Parts) -> Parts:
        """Return `parts` on the device, at once."""
        return tuple(part.to(self.device) for part in parts)

    def put(self, into: Tensor, values: Tensor) -> None:
        """Copy `values` into a tensor of the same dtype; `values` must not be written again.

        What lands in host memory is there after `settle`.
        """
        if self._side is None or into.device == values.device:
            into.copy_(values)
            return
        self._side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._side):
            into.copy_(values, non_blocking=True)
        values.record_stream(self._side)

    def settle(self) -> None:
        """Wait until all copies have landed."""
        if self._side is not None:
            self._side.synchronize()


class Tally:
    """Scalars noted while pieces pass by under a name, read from the device once at the end.

    On a CPU there is nothing to wait for, and they are read at once: small tensors that stay,
    made between large ones that go, would keep the memory of the large ones in pieces
    (measured: half a gigabyte on 135 M weights).
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._scalars: list[Tensor | float] = []

    def note(self, name: str, scalar: Tensor | float) -> None:
        on_device = isinstance(scalar, Tensor) and scalar.device.type != "cpu"
        self._names.append(name)
        self._scalars.append(scalar if on_device else float(scalar))

    def read(self) -> list[tuple[str, float]]:
        """Return all that was noted, in its order."""
        on_device = bool(self._scalars) and isinstance(self._scalars[0], Tensor)
        values = torch.stack(self._scalars).tolist() if on_device else self._scalars
        return list(zip(self._names, values, strict=True))

    def sum_of_squares(self) -> float:
        """Return the sum of the squares, added in the order they were noted in."""
        total = 0.0
        for _, value in self.read():
            total += value**2
        return total


def length(values: Tensor) -> Tensor:
    """Return the root of the sum of squares of `values`, float32 of any shape, as a scalar."""
    # mps has no float64; pieces are short enough for float32.
    dtype = torch.float32 if values.device.type == "mps" else torch.float64
    return torch.linalg.vector_norm(values, dtype=dtype)
