"""Perturb the weights for members, one after the other, and give back their exact bits."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from esft.engine.drift import Drift
from esft.engine.kernels.reference import Part
from esft.engine.members import Member
from esft.engine.undo import Undo, differing, finish
from esft.engine.weights import Piece, Weights


@contextmanager
def visiting(
    weights: Weights, sigma: float, drift: Drift | None = None, revert: str | None = None
) -> Iterator[Callable[[Member], None]]:
    """Hold `weights` at round(w + sigma * sign * noise(seed)) of the member visited last.

    The block gets `visit`, which takes a Member: w is what the weights were before the block,
    for all of them. The bits of w come back after it, also when it raises and when a perturbing is
    interrupted half-way.

    Args:
        weights: changed in place, piece by piece within their scratch.
        sigma: noise scale, > 0.
        drift: of the weights; None where they have none.
        revert: "restore" writes every member straight from theta_0 + D and needs a drift; "log"
            subtracts the noise and writes back the few weights that this misses; None: see
            `revert_way`.

    Raises:
        ValueError: if sigma or `revert` cannot be, `drift` is that of other weights, or the weights
            are codes with noise of low rank, which no code can take.
        AnchorError: if a step was interrupted half-way: theta_0 + D is no longer what to restore.

    Source: arXiv:2509.24372, section 3.2 (perturb and restore in place, by seed); the exact
    restoring is ours.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma is {sigma}, expected a positive number")
    if weights.coded and not weights.whole_steps:
        raise ValueError("noise of codes is of low rank, expected members that share a batch")
    if drift is not None:
        if drift.weights is not weights:
            raise ValueError("the drift is of other weights, expected that of those given")
        drift.refuse_if_torn()
    revert = revert_way(drift) if revert is None else revert
    if revert not in ("restore", "log"):
        raise ValueError(f"revert is {revert!r}, expected 'restore' or 'log'")
    if revert == "restore" and drift is None:
        raise ValueError("revert is 'restore', which needs a Drift")
    way = _Restoring(drift, sigma) if revert == "restore" else _Logging(weights, drift, sigma)
    with weights.held("perturbed"):
        try:  # also around the perturbing: an interruption half-way must leave no trace either
            yield way.visit
        finally:
            finish(way.leave)


@contextmanager
def perturbed(
    weights: Weights,
    member: Member,
    sigma: float,
    drift: Drift | None = None,
    revert: str | None = None,
) -> Iterator[None]:
    """Hold `weights` at one member in the block, and give back their bits: see `visiting`."""
    with visiting(weights, sigma, drift, revert) as visit:
        visit(member)
        yield


class _Restoring:
    """Members straight from theta_0 and D: one pass a member, and one at the end."""

    def __init__(self, drift: Drift, sigma: float) -> None:
        self._drift, self._sigma = drift, sigma
        self._moved = False

    def visit(self, member: Member) -> None:
        self._moved = True
        kernels = self._drift.weights.kernels
        kernels.perturb(self._drift.parts(), member.seed, self._sigma * member.sign)

    def leave(self) -> None:
        if self._moved:
            self._drift.round_weights()


class _Logging:
    """Each member undone before the next: noise subtracted, and the few misses of that logged."""

    def __init__(self, weights: Weights, drift: Drift | None, sigma: float) -> None:
        self._weights, self._sigma = weights, sigma
        self._compose = None if drift is None else drift.compose
        self._undo: Undo | None = None

    def visit(self, member: Member) -> None:
        self.leave()
        perturb, scale = self._weights.kernels.perturb, self._sigma * member.sign

        def moved(piece: Piece, flat: Tensor, sign: int) -> Tensor:
            out = torch.empty_like(flat)
            part = Part(piece.name, piece.start, out, flat, None, piece.factors, piece.grid)
            perturb([part], member.seed, sign * scale)
            return out

        self._undo = Undo(moved, self._compose)
        for piece in self._weights.pieces():
            self._undo.replace(piece)

    def leave(self) -> None:
        if self._undo is not None:
            self._undo.restore()


def revert_way(drift: Drift | None) -> str:
    """Return how members are undone: "restore" where theta_0 and D are at hand, else "log"."""
    return "restore" if drift is not None and drift.on_device else "log"


def unmoved_share(weights: Weights, member: Member, sigma: float) -> float:
    """Return the share of weights, 0 to 1, whose bits this member leaves as they are.

    A shift below half a step of the weights' dtype rounds away; nothing is written.
    """
    unmoved = 0
    for piece in weights.pieces():
        moved = torch.empty_like(piece.flat)
        part = Part(piece.name, piece.start, moved, piece.flat, None, piece.factors, piece.grid)
        weights.kernels.perturb([part], member.seed, sigma * member.sign)
        unmoved += int((differing(moved, piece.flat, piece.grid) == 0).sum())
    return unmoved / weights.numel
