"""The drift: what a run owns, from which the weights are always rounded once."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from esft.engine.anchor import STORES, anchor_of
from esft.engine.decay import decay_, pull_of
from esft.engine.kept import kept_drift
from esft.engine.members import Member, net_coefficients
from esft.engine.noise import MAX_NOISE, derived_seed, noise
from esft.engine.state import DriftState, refuse_other
from esft.engine.stream import Parts, Stream
from esft.engine.tally import Tally
from esft.engine.weights import Piece, Weights, finish
from esft.errors import AnchorError

__all__ = ["DRIFT_STORES", "STORES", "Drift"]

DRIFT_STORES = ("cpu", "device")
"""Where D lies: in host memory or on the weights' device."""


class Drift:
    """D = theta - theta_0 of some weights, with the anchor theta_0, which is never written.

    The weights are round(theta_0 + D) after every step, with D as it is kept: no update is too
    small to land, and the decay acts on D alone. Steps stream theta_0 and D through the
    scratch of the weights.

    Args:
        weights: at their base values; from now on changed only through this drift.
        store: where theta_0 lies: "disk" (it is `base`), "cpu" (a copy in host memory) or
            "device" (a copy on the weights' device).
        dtype: how D is kept, one of `KINDS` (see `kept_drift`).
        seed: what the stochastic rounding draws from.
        base: with store "disk" the base weights by canonical name, flat, in host memory (mapped
            from a file, say), with the very bits of the weights; only read.
        drift_store: where D lies, one of `DRIFT_STORES`; None: on the device where theta_0 is
            stored there, else in host memory.

    Raises:
        ValueError: if store, dtype or drift_store is unknown, `base` is missing, not asked for or
            not like the weights, or the weights have a drift already.
        AnchorError: if a base weight is NaN or infinite.

    Source: arXiv:2509.24372, Algorithm 2 (update by seed replay); arXiv:2605.30148, Algorithm 1
    (decay). That D is the state, not theta, is ours.
    """

    def __init__(
        self,
        weights: Weights,
        store: str = "cpu",
        dtype: str = "float32",
        seed: int = 0,
        *,
        base: Mapping[str, Tensor] | None = None,
        drift_store: str | None = None,
    ) -> None:
        if drift_store is None:
            drift_store = "device" if store == "device" else "cpu"
        if drift_store not in DRIFT_STORES:
            raise ValueError(
                f"drift_store is {drift_store!r}, expected one of {', '.join(DRIFT_STORES)}"
            )
        self.weights = weights
        self._store = store
        self._kind = dtype
        self._seed = seed
        self._steps = 0
        self._sum_of_squares = 0.0
        self._torn = False
        self._base = anchor_of(weights, store, base)
        self._kept = {}
        for name in weights.names:
            flat = weights.flat(name)
            device = flat.device if drift_store == "device" else torch.device("cpu")
            pin = flat.is_cuda and device.type == "cpu"
            self._kept[name] = kept_drift(name, flat.numel(), dtype, device, pin)
        self._stream = Stream(flat.device)
        weights.claim()

    @property
    def on_device(self) -> bool:
        """True where theta_0 and D lie on the weights' device."""
        kept = [tensor for kept in self._kept.values() for tensor in kept.tensors().values()]
        return all(tensor.device == self._stream.device for tensor in [*self._base.values(), *kept])

    @property
    def steps(self) -> int:
        """Steps made, those without an update too."""
        return self._steps

    @property
    def nbytes(self) -> int:
        """Bytes of D, and of theta_0 unless it lies on disk."""
        base = 0 if self._store == "disk" else sum(part.nbytes for part in self._base.values())
        return base + self.state_nbytes

    @property
    def state_nbytes(self) -> int:
        """Bytes of D, which are those of the tensors in `state`."""
        return sum(kept.nbytes for kept in self._kept.values())

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
        with self.weights.held("a step"):
            self._steps += 1
            if nets or pull:
                self._torn = True
                try:
                    if nets or not self._decayed_alone(pull, norm):
                        self._update(nets, alpha / max(1, len(members)), pull, norm)
                finally:
                    self._stream.settle()
                self._torn = False

    @contextmanager
    def at_base(self) -> Iterator[None]:
        """Hold theta_0 in the weights inside the block; the exact bits after it.

        Raises:
            ValueError: if a member is being held.
            AnchorError: if a step was interrupted half-way.
        """
        self.refuse_if_torn()
        with self.weights.held("at_base"):
            try:
                pieces = self.weights.pieces()
                for piece, (base,) in self._stream.brought(pieces, self._base_of):
                    piece.flat.copy_(base)
                yield
            finally:
                finish(self._round_weights)

    def composed(self, piece: Piece) -> Tensor:
        """Return round(theta_0 + D) of a piece, in the weights' dtype, shape (count,)."""
        return self._composed(piece, self._stream.moved(self._parts_of(piece)))

    def streamed(self) -> Iterator[tuple[Piece, Tensor, Tensor]]:
        """Yield each piece of the weights with theta_0 and D of it, brought to their device.

        theta_0 has the dtype of the weights, D is float32 as it is kept: (count,) each.

        Raises:
            AnchorError: if a step was interrupted half-way.
        """
        self.refuse_if_torn()
        for piece, (base, *parts) in self._brought():
            yield piece, base, self._kept[piece.name].read(parts)

    def state(self) -> DriftState:
        """Return what `load` needs to go on from here; views of D where it lies on the host.

        Raises:
            AnchorError: if a step was interrupted half-way.
        """
        self.refuse_if_torn()
        return DriftState(
            steps=self._steps,
            sum_of_squares=self._sum_of_squares,
            kind=self._kind,
            tensors={name: tensor.cpu() for name, tensor in self._tensors().items()},
            figures=self._figures(),
        )

    def load(self, state: DriftState) -> None:
        """Go back, or on, to a state of a drift with the same base and seed.

        Steps from here make the bits that they made from there. A drift that an
        interruption left half-way is whole again.

        Raises:
            ValueError: if a member is being held.
            AnchorError: if the state is one of other tensors or kept otherwise; nothing changes.
        """
        refuse_other(state, self._kind, self._tensors(), self._figures())
        with self.weights.held("load"):
            self._torn = True
            for name, tensor in self._tensors().items():
                tensor.copy_(state.tensors[name])
            for name, kept in self._kept.items():
                kept.set_figures(state.figures[name])
            self._steps, self._sum_of_squares = state.steps, state.sum_of_squares
            self._round_weights()
            self._torn = False

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
        tally = Tally()
        for kept in self._kept.values():
            kept.open_step(largest_update)
        for piece, (base, *parts) in self._brought():
            kept = self._kept[piece.name]
            drift = kept.read(parts)
            if nets:
                drift += _update_of(piece, nets, scale)
            decay_(drift, pull, norm)
            tally.note_peak(piece.name, drift)
            drift = kept.write(piece.start, drift, rounding, self._stream.put)
            tally.note_norm(drift)
            piece.flat.copy_(_rounded(base, drift))
        peaks = tally.peaks()
        for name, kept in self._kept.items():
            kept.close_step(peaks.get(name, 0.0))
        self._sum_of_squares = tally.squares()

    def _decayed_alone(self, pull: float, norm: str) -> bool:
        """Make a decay without an update if that needs no rounding of D; return whether."""
        decayed = [kept.decay_alone(pull, norm) for kept in self._kept.values()]
        if not all(decayed):
            return False
        tally = Tally()
        for piece, (base, *parts) in self._brought():
            drift = self._kept[piece.name].read(parts)
            tally.note_norm(drift)
            piece.flat.copy_(_rounded(base, drift))
        self._sum_of_squares = tally.squares()
        return True

    def _round_weights(self) -> None:
        for piece, parts in self._brought():
            piece.flat.copy_(self._composed(piece, parts))

    def _composed(self, piece: Piece, parts: Parts) -> Tensor:
        base, *kept = parts
        return _rounded(base, self._kept[piece.name].read(kept))

    def _brought(self) -> Iterator[tuple[Piece, Parts]]:
        return self._stream.brought(self.weights.pieces(), self._parts_of)

    def _parts_of(self, piece: Piece) -> Parts:
        return *self._base_of(piece), *self._kept[piece.name].parts(piece.start, piece.count)

    def _base_of(self, piece: Piece) -> Parts:
        return (self._base[piece.name][piece.start : piece.start + piece.count],)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            name + suffix: tensor
            for name, kept in self._kept.items()
            for suffix, tensor in kept.tensors().items()
        }

    def _figures(self) -> dict[str, dict[str, int | float]]:
        return {name: kept.figures() for name, kept in self._kept.items()}


def _rounded(base: Tensor, drift: Tensor) -> Tensor:
    """Return base + drift, a piece of theta, in the dtype of the base."""
    # Where the drift is 0, -0.0 + 0.0 would lose the sign of a base weight of -0.0. A
    # subtracted +0.0 keeps it, and (-drift) + 0.0 is +0.0 for zeros of either sign.
    return torch.sub(base.float(), drift.neg().add_(0.0)).to(base.dtype)


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
