"""Perturb the weights for one member, and give back their exact bits."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from esft.engine.drift import Drift
from esft.engine.kernels import differing_bits, perturb, scaled_noise
from esft.engine.members import Member
from esft.engine.undo import Undo
from esft.engine.weights import Weights


@contextmanager
def perturbed(
    weights: Weights,
    member: Member,
    sigma: float,
    drift: Drift | None = None,
    revert: str | None = None,
) -> Iterator[None]:
    """Hold `weights` at round(w + sigma * sign * noise(seed)) in the block; the bits of w after it.

    They come back also when the block raises and when the perturbing is interrupted half-way.

    Args:
        weights: changed in place, piece by piece within their scratch.
        member: whose noise is added.
        sigma: noise scale, > 0.
        drift: of the weights; None where they have none.
        revert: "restore" writes round(theta_0 + D) and needs a drift; "log" subtracts the noise
            and writes back the few weights that this misses; None: see `revert_way`.

    Raises:
        ValueError: if sigma or `revert` cannot be, or `drift` is that of other weights.
        AnchorError: if a step was interrupted half-way: theta_0 + D is no longer what to restore.

    Source: arXiv:2509.24372, section 3.2 (perturb and restore in place, by seed); the exact
    restoring is ours.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma is {sigma}, expected a positive number")
    if drift is not None:
        if drift.weights is not weights:
            raise ValueError("the drift is of other weights, expected that of those given")
        drift.refuse_if_torn()
    revert = revert_way(drift) if revert is None else revert
    if revert not in ("restore", "log"):
        raise ValueError(f"revert is {revert!r}, expected 'restore' or 'log'")
    if revert == "restore" and drift is None:
        raise ValueError("revert is 'restore', which needs a Drift")
    scale = sigma * member.sign
    with weights.held("perturbed"):
        undo = Undo(
            lambda piece: scaled_noise(piece, member.seed, scale),
            None if drift is None else drift.composed,
            logs=revert == "log",
        )
        try:  # also around the perturbing: an interruption half-way must leave no trace either
            for piece in weights.pieces():
                undo.replace(piece)
            yield
        finally:
            undo.restore()


def revert_way(drift: Drift | None) -> str:
    """Return how members are undone: "restore" where theta_0 and D are at hand, else "log"."""
    return "restore" if drift is not None and drift.on_device else "log"


def unmoved_share(weights: Weights, member: Member, sigma: float) -> float:
    """Return the share of weights, 0 to 1, whose bits this member leaves as they are.

    A shift below half a step of the weights' dtype rounds away; nothing is written.
    """
    unmoved = 0
    for piece in weights.pieces():
        shift = scaled_noise(piece, member.seed, sigma * member.sign)
        unmoved += int((differing_bits(perturb(piece.flat, shift), piece.flat) == 0).sum())
    return unmoved / weights.numel
