"""What gives perturbed weights their exact bits back."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.engine.codes import Grid
from esft.engine.weights import Piece

LOG_SHARE = 0.1
"""A log larger than this share of a piece's bytes is dropped for theta_0 + D, where they are."""
_BLOCK = 1 << 16
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32}


@dataclass(frozen=True)
class _Log:
    """The weights of a piece that subtracting the noise would miss."""

    positions: Tensor  # (misses,) int16, the low 16 bits of the position in the piece
    per_block: Tensor  # (blocks of 65,536,) int64, misses in each
    values: Tensor  # (misses,) in the weights' dtype

    def write_to(self, flat: Tensor) -> None:
        blocks = torch.arange(self.per_block.numel(), device=flat.device)
        positions = torch.repeat_interleave(blocks * _BLOCK, self.per_block)
        positions += self.positions.to(torch.int64) & (_BLOCK - 1)
        flat[positions] = self.values


class Undo:
    """Perturbs pieces one at a time and knows at every moment how to undo what is done.

    A piece is noted before it is written, with something that does not depend on whether the
    writing took place: a copy (of this one piece, within the scratch) or theta_0 + D. Only when
    the piece is written, the copy is exchanged for the log. Restoring keeps to the same
    order, so it may itself be interrupted and done again.

    `moved` returns round(w + sign * shift) for a piece, weights w of it and a sign, the same at
    every call; `compose` writes round(theta_0 + D) to a piece, None without a drift.
    """

    def __init__(
        self,
        moved: Callable[[Piece, Tensor, int], Tensor],
        compose: Callable[[Piece], None] | None,
    ) -> None:
        self._moved = moved
        self._compose = compose
        # None stands for theta_0 + D.
        self._done: list[tuple[Piece, Tensor | _Log | None]] = []

    def replace(self, piece: Piece) -> None:
        """Write round(w + shift) to `piece`."""
        moved = self._moved(piece, piece.flat, 1)
        kept = self._to_keep(piece.flat, self._moved(piece, moved, -1))
        self._done.append((piece, piece.flat.clone() if isinstance(kept, _Log) else kept))
        piece.flat.copy_(moved)
        self._done[-1] = (piece, kept)

    def restore(self) -> None:
        """Give every piece written so far the bits it had; where it is interrupted, once more."""
        while self._done:
            piece, kept = self._done[-1]
            if isinstance(kept, _Log):
                before = self._moved(piece, piece.flat, -1)
                kept.write_to(before)
                # The copy comes first: once the piece is written, subtracting would be wrong.
                self._done[-1] = (piece, before)
                kept = before
            if kept is None:
                self._compose(piece)
            else:
                piece.flat.copy_(kept)
            self._done.pop()

    def _to_keep(self, before: Tensor, back: Tensor) -> Tensor | _Log | None:
        missed = torch.nonzero(differing_bits(before, back)).view(-1)  # (misses,)
        nbytes = missed.numel() * (2 + before.element_size())
        if self._compose is not None and nbytes > LOG_SHARE * before.nbytes:
            return None
        if nbytes >= before.nbytes:
            return before.clone()
        blocks = -(-before.numel() // _BLOCK)
        per_block = torch.bincount(missed // _BLOCK, minlength=blocks)
        return _Log((missed % _BLOCK).to(torch.int16), per_block, before[missed])


def differing_bits(left: Tensor, right: Tensor) -> Tensor:
    """Return the bits in which two tensors of one dtype differ, as integers; -0.0 is not 0.0."""
    bits = _BITS[left.element_size()]
    return left.view(bits) ^ right.view(bits)


def differing(left: Tensor, right: Tensor, grid: Grid | None) -> Tensor:
    """Return `differing_bits` of each element, where two of them may lie in a byte."""
    if grid is not None:
        left, right = grid.unpack(left), grid.unpack(right)
    return differing_bits(left, right)


def finish(action: Callable[[], None]) -> None:
    """Run `action` to its end: where Ctrl-C comes in between, once more from its start."""
    try:
        action()
    except KeyboardInterrupt:
        action()
        raise
