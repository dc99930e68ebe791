"""The anchor where it moves: E, so that a decay pulls towards theta_0 + E, and E follows D."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from esft.engine.kept import KeptDrift, close_steps
from esft.engine.kernels.reference import read
from esft.engine.stream import Parts, Stream, Tally, length
from esft.engine.weights import Piece, Weights


class MovingAnchor:
    """E of some weights, all zeros at first, kept as D of them is.

    Args:
        drift: D of each parameter.
        kept: E of each, of the same kind and where D lies.

    Source: inspired by the anchor of arXiv:2605.04468, without its gradients.
    """

    def __init__(
        self,
        weights: Weights,
        stream: Stream,
        drift: Mapping[str, KeptDrift],
        kept: Mapping[str, KeptDrift],
    ) -> None:
        self._weights, self._stream, self._drift, self.kept = weights, stream, drift, kept
        self.sum_of_squares = 0.0
        """Of E over all tuned weights; 0 where the anchor is theta_0."""

    def norm(self) -> float:
        """Return ||E||."""
        return math.sqrt(self.sum_of_squares)

    def distance(self) -> float:
        """Return ||D - E||, how far the weights are from the anchor; a pass over both."""
        lengths = Tally()
        for piece, parts in self._stream.brought(self._weights.pieces(), self._parts_of):
            drift, anchor = self._read(piece, parts)
            lengths.note(piece.name, length(drift.sub_(anchor)))
        return math.sqrt(lengths.sum_of_squares())

    def parts(self, piece: Piece) -> Parts:
        """Return E of a piece as it is kept."""
        return self.kept[piece.name].parts(piece.start, piece.count)

    def taken(self, piece: Piece, parts: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        """Return the parts of D, and E as float32 (count,), from the parts of both."""
        half = len(parts) // 2  # they are kept alike
        return parts[:half], read(self.kept[piece.name].stored(parts[half:]))

    def follow(self, tau: float, sum_of_squares: float, rounding: int) -> None:
        """Make E + tau * (D - E), with D as it is kept; 1 makes E the very D.

        Args:
            tau: above 0, up to 1.
            sum_of_squares: of D.
            rounding: seed of the stochastic rounding.
        """
        if tau == 1:
            self._stream.settle()  # what a step put into D has landed
            for name, one in self.kept.items():
                one.be(self._drift[name])
            self.sum_of_squares = sum_of_squares
            return
        peaks, lengths = Tally(), Tally()
        for name, one in self.kept.items():  # E stays between what it was and D
            one.open_step(max(0.0, self._drift[name].largest - one.largest))
        for piece, parts in self._stream.brought(self._weights.pieces(), self._parts_of):
            drift, anchor = self._read(piece, parts)
            drift -= anchor
            drift *= tau
            anchor += drift
            peaks.note(piece.name, anchor.abs().max())
            own = self.kept[piece.name]
            anchor = own.write(piece.start, anchor, rounding, self._stream.put)
            lengths.note(piece.name, length(anchor))
        close_steps(self.kept, peaks.read())
        self.sum_of_squares = lengths.sum_of_squares()

    def _parts_of(self, piece: Piece) -> Parts:
        of_drift = self._drift[piece.name].parts(piece.start, piece.count)
        return *of_drift, *self.parts(piece)

    def _read(self, piece: Piece, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        of_drift, anchor = self.taken(piece, parts)
        return read(self._drift[piece.name].stored(of_drift)), anchor
