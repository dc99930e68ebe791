"""The drift: what a run owns, from which the weights are always rounded once."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from esft.engine.decay import decay_, pull_of
from esft.engine.kept import KeptDrift
from esft.engine.members import Member, net_coefficients
from esft.engine.noise import MAX_NOISE, derived_seed, noise
from esft.engine.undo import finish
from esft.engine.weights import Piece, Weights
from esft.errors import AnchorError

STORES = ("cpu",)


class Drift:
    """D = theta - theta_0 of some weights, with the anchor theta_0, which is never written.

    The weights are round(theta_0 + D) after every step, with D as it is kept: no update is too
    small to land, and the decay acts on D alone. Steps stream theta_0 and D through the
    scratch of the weights.

    Args:
        weights: at their base values; from now on changed only through this drift.
        store: where theta_0 and D lie: "cpu", a copy in host memory.
        dtype: how D is kept: "float32" or "float16" (see `KeptDrift`).
        seed: what the stochastic rounding draws from.

    Raises:
        ValueError: if store or dtype is unknown, or the weights have a drift already.
        AnchorError: if a base weight is NaN or infinite.

    Source: arXiv:2509.24372, Algorithm 2 (update by seed replay); arXiv:2605.30148, Algorithm 1
    (decay). That D is the state, not theta, is ours.
    """

    def __init__(
        self, weights: Weights, store: str = "cpu", dtype: str = "float32", seed: int = 0
    ) -> None:
        if store not in STORES:
            raise ValueError(f"store is {store!r}, expected one of {', '.join(STORES)}")
        if weights.drift is not None:
            raise ValueError("the weights have a drift already, expected weights without one")
        self._weights = weights
        self._seed = seed
        self._steps = 0
        self._sum_of_squares = 0.0
        self._torn = False
        self._base = {name: _copy_of_base(weights, name) for name in weights.names}
        self._kept = {
            name: KeptDrift(name, base.numel(), dtype, pin=base.is_pinned())
            for name, base in self._base.items()
        }
        weights.drift = self

    @property
    def on_device(self) -> bool:
        """True where theta_0 and D lie on the weights' device."""
        return all(
            base.device == self._weights.flat(name).device for name, base in self._base.items()
        )

    @property
    def nbytes(self) -> int:
        """Bytes of theta_0 and D."""
        return sum(base.nbytes for base in self._base.values()) + sum(
            kept.nbytes for kept in self._kept.values()
        )

    def norm(self) -> float:
        """Return ||D||, the square root of the sum of squares over all tuned weights."""
        self.refuse_if_torn()
        return math.sqrt(self._sum_of_squares)

    def step(
        self,
        members: list[Member],
        coefficients: list[float],
        alpha: float,
        decay: float = 0.0,
        norm: str = "l2",
    ) -> None:
        """Make one ES update and one decay, then round the weights.

        D' = D + alpha / N * sum_i c_i * sign_i * noise(seed_i), N = len(members); then
        D = prox(D') (see `decay_`); then theta = round(theta_0 + D).

        Args:
            members: those that got a coefficient; none for a decay without an update.
            coefficients: their shaped rewards, finite.
            alpha: learning rate, > 0; holds 1 / sigma.
            decay: lambda, >= 0.
            norm: of the decay, "l1" or "l2".

        Raises:
            ValueError: if a number is out of its range, the lengths differ, or a member is being
                held.
            AnchorError: if an earlier step was interrupted half-way.

        Source: arXiv:2605.30148, Algorithm 1.
        """
        if not (alpha > 0 and math.isfinite(alpha)):
            raise ValueError(f"alpha is {alpha}, expected a positive number")
        if not all(math.isfinite(coefficient) for coefficient in coefficients):
            raise ValueError("a coefficient is not finite: leave its member out")
        pull = pull_of(alpha, decay, norm)
        nets = net_coefficients(members, coefficients)
        self.refuse_if_torn()
        with self._weights.held("a step"):
            self._steps += 1
            if nets or pull:
                self._torn = True
                self._update(nets, alpha / max(1, len(members)), pull, norm)
                self._torn = False

    @contextmanager
    def at_base(self) -> Iterator[None]:
        """Hold theta_0 in the weights inside the block; the exact bits after it.

        Raises:
            ValueError: if a member is being held.
            AnchorError: if a step was interrupted half-way.
        """
        self.refuse_if_torn()
        with self._weights.held("at_base"):
            try:
                for name, base in self._base.items():
                    self._weights.flat(name).copy_(base)
                yield
            finally:
                finish(self._round_weights)

    def composed(self, piece: Piece) -> Tensor:
        """Return round(theta_0 + D) of a piece, in the weights' dtype, shape (count,)."""
        drift = self._kept[piece.name].read(piece.start, piece.count, piece.flat.device)
        return self._rounded(piece, drift)

    def refuse_if_torn(self) -> None:
        """Raise AnchorError if a step was interrupted half-way."""
        if self._torn:
            raise AnchorError(
                "a step was interrupted half-way, so the weights are between two steps",
                hint="load the model again and go on from the last recorded step",
            )

    def _update(self, nets: list[tuple[int, float]], scale: float, pull: float, norm: str) -> None:
        largest_update = scale * MAX_NOISE * sum(abs(net) for _, net in nets) * (1 + 1e-5)
        rounding = derived_seed("rounding", self._seed, self._steps)
        squares = 0.0
        for name, kept in self._kept.items():
            kept.open_step(largest_update)
            for piece in self._weights.pieces_of(name):
                drift = kept.read(piece.start, piece.count, piece.flat.device)
                if nets:
                    drift += _update_of(piece, nets, scale)
                decay_(drift, pull, norm)
                drift = kept.write(piece.start, drift, rounding)
                squares += _norm(drift) ** 2
                piece.flat.copy_(self._rounded(piece, drift))
            kept.close_step()
        self._sum_of_squares = squares

    def _round_weights(self) -> None:
        for piece in self._weights.pieces():
            piece.flat.copy_(self.composed(piece))

    def _rounded(self, piece: Piece, drift: Tensor) -> Tensor:
        """Return theta_0 + drift rounded to the weights' dtype; `drift` is overwritten."""
        base = self._base[piece.name][piece.start : piece.start + piece.count]
        # Where the drift is 0, -0.0 + 0.0 would lose the sign of a base weight of -0.0. A
        # subtracted +0.0 keeps it, and (-drift) + 0.0 is +0.0 for zeros of either sign.
        drift.neg_().add_(0.0)
        return torch.sub(base.to(piece.flat.device).float(), drift).to(piece.flat.dtype)


def _copy_of_base(weights: Weights, name: str) -> Tensor:
    """Return a host copy of a parameter, page-locked for cuda; checked to be finite."""
    flat = weights.flat(name)
    base = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=flat.device.type == "cuda")
    for piece in weights.pieces_of(name):
        if not bool(torch.isfinite(piece.flat).all()):
            raise AnchorError(
                f"{name} of the base model is NaN or infinite, expected finite weights",
                hint="load the checkpoint in another dtype, or take another checkpoint",
            )
        base[piece.start : piece.start + piece.count].copy_(piece.flat)
    return base


def _norm(drift: Tensor) -> float:
    # mps has no float64; pieces are short enough for float32.
    dtype = torch.float32 if drift.device.type == "mps" else torch.float64
    return float(torch.linalg.vector_norm(drift, dtype=dtype))


def _update_of(piece: Piece, nets: list[tuple[int, float]], scale: float) -> Tensor:
    """Return scale * sum_i c_i * noise_i of a piece: float32, (count,), members in order."""
    total = torch.zeros(piece.count, dtype=torch.float32, device=piece.flat.device)
    for seed, net in nets:
        # Product first, then sum: a fused multiply-add would round differently elsewhere.
        shift = noise(seed, piece.name, piece.start, piece.count, piece.flat.device)
        shift *= net
        total += shift
    total *= scale
    return total
