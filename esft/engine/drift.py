"""The drift: what a run owns, from which the weights are always rounded once."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from torch import Tensor

from esft.engine.anchor import anchor_of
from esft.engine.drift_state import DriftState, put_back, require_like, tensors_of
from esft.engine.kept import KeptDrift, zeros
from esft.engine.kernels.reference import Part, Update, read
from esft.engine.members import Member
from esft.engine.moving_anchor import MovingAnchor
from esft.engine.noise import derived_seed
from esft.engine.stream import Parts, Stream, Tally, length
from esft.engine.undo import finish
from esft.engine.update import overflow, update_of, update_weights
from esft.engine.weights import Piece, Weights
from esft.errors import AnchorError


class Drift:
    """D = theta - theta_0 of some weights, with the anchor theta_0, which is never written.

    The weights are round(theta_0 + D) after every step, with D as it is kept: no update is too
    small to land, and the decay acts on D alone. Steps stream theta_0 and D through the
    scratch of the weights.

    Where the anchor moves it is theta_0 + E, with E kept as D is: the decay acts on D - E, and E
    follows D by a share tau of what is between them, after every step.

    Args:
        weights: at their base values; from now on changed only through this drift.
        store: where theta_0 lies: "disk" (it is `base`), "cpu" (a copy in host memory) or
            "device" (a copy on the weights' device).
        dtype: how D is kept, one of `KINDS`.
        seed: what the stochastic rounding draws from.
        base: with store "disk" the base weights by canonical name, flat, mapped from a file,
            with the very bits of the weights; only read.
        drift_store: where D lies, one of `DRIFT_STORES`; None: on the device where theta_0 is
            stored there, else in host memory.
        moving: whether there is an E, as much memory as D; without one tau of all steps is 0.

    Raises:
        ValueError: if store, dtype or drift_store is unknown, `base` is missing, not asked for or
            not like the weights, or the weights have a drift already.
        AnchorError: if a base weight is NaN or infinite.

    Source: arXiv:2509.24372, Algorithm 2 (update by seed replay); arXiv:2605.30148, Algorithm 1
    (decay). That D is the state, not theta, is ours. The moving anchor is inspired by that of
    arXiv:2605.04468, without its gradients.
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
        moving: bool = False,
    ) -> None:
        if drift_store is None:
            drift_store = "device" if store == "device" else "cpu"
        kept = zeros(weights, dtype, drift_store)
        self._begin(weights, store, dtype, seed, base)
        self._kept = kept
        if moving:
            anchor = zeros(weights, dtype, drift_store)
            self.anchor = MovingAnchor(weights, self._stream, kept, anchor)
        device = weights.flat(weights.names[-1]).device
        tensors = [*self._base.values(), *tensors_of(kept).values()]
        self.on_device = all(tensor.device == device for tensor in tensors)
        """True where theta_0 and D lie on the weights' device."""
        weights.claim()

    def _begin(
        self,
        weights: Weights,
        store: str,
        kind: str,
        seed: int,
        base: Mapping[str, Tensor] | None,
    ) -> None:
        """Be what a drift is before its first step, but for how D is kept."""
        self.weights = weights
        self.steps = 0
        """Steps made whole, those without an update too."""
        self.changed = 0
        """Codes that the last step made others."""
        self._store, self._kind, self._seed = store, kind, seed
        self._sum_of_squares = 0.0
        self._torn = False
        self._base = anchor_of(weights, store, base)
        self._kept: dict[str, KeptDrift] = {}
        self._stream = Stream(weights.flat(weights.names[-1]).device)
        self.anchor: MovingAnchor | None = None
        """What the decay pulls towards; None where that is theta_0 throughout."""

    @property
    def nbytes(self) -> int:
        """Bytes of D and E, and of theta_0 unless it lies on disk."""
        base = 0 if self._store == "disk" else sum(part.nbytes for part in self._base.values())
        return base + self.state_nbytes

    @property
    def state_nbytes(self) -> int:
        """Bytes of D and E, which are those of the tensors in `state`."""
        return sum(tensor.nbytes for tensor in tensors_of(self._every_kept()).values())

    @property
    def changed_share(self) -> float | None:
        """Share of the codes that the last step made others; None where none are tuned."""
        coded = sum(self.weights.count(n) for n in self.weights.names if self.weights.grid(n))
        return self.changed / coded if coded else None

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
        sigma: float | None = None,
        tau: float = 0.0,
    ) -> None:
        """Make one ES update and one decay, then round the weights.

        D' = D + alpha / N * sum_i c_i * sign_i * noise(seed_i), N = len(members); then
        D = E + prox(D' - E) (see `decay_`); then theta = round(theta_0 + D); then
        E = E + tau * (D - E), with D as it is kept. E is 0 where the anchor does not move.

        Of codes D is in steps of their grid, and so is the noise: that of whole steps (see
        `whole_steps`), without those steps that would have left the grid. With noise of low rank
        alpha and it are in units of the weights, and their product is divided by the size of a step
        (see `Piece.in_steps_`). D stays within half a step of where theta could go.

        Args:
            members: those that got a coefficient; none for a decay without an update.
            coefficients: their shaped rewards, finite.
            alpha: learning rate, > 0; holds 1 / sigma.
            decay: lambda, >= 0.
            norm: of the decay.
            sigma: noise scale of the members; needed where they take whole steps.
            tau: share of the way to D that the anchor goes, 0 to 1; 1 makes E the very D.

        Raises:
            ValueError: if a number is out of range, lengths differ, or a member is being held.
            AnchorError: if an earlier step was interrupted half-way, or this one is so large that
                a weight is not finite; the drift is of no use then.

        Source: arXiv:2605.30148, Algorithm 1; for codes arXiv:2602.03120, whose residual is what
        D has beyond whole steps.
        """
        rounding = derived_seed("rounding", self._seed, self.steps + 1)
        of_step = alpha, decay, norm, sigma, rounding, self.weights.whole_steps
        update = update_of(members, coefficients, *of_step)
        if not 0 <= tau <= (self.anchor is not None):
            expected = "0: this anchor does not move" if self.anchor is None else "0 to 1"
            raise ValueError(f"tau is {tau}, expected {expected}")
        self.refuse_if_torn()
        with self.weights.held("a step"):
            self.changed = 0
            moves = update.nets or update.pairs or update.pull
            if moves or tau:
                self._torn = True
                try:
                    if moves:
                        self._move(update)
                    if tau:
                        rounding = derived_seed("anchor rounding", self._seed, self.steps + 1)
                        self.anchor.follow(tau, self._sum_of_squares, rounding)
                finally:
                    self._stream.settle()
                self._torn = False
            self.steps += 1

    def at_base(self) -> AbstractContextManager[None]:
        """Hold theta_0 in the weights inside the block; the exact bits after it."""
        return self.holding("at_base", self._write_base)

    def at_anchor(self) -> AbstractContextManager[None]:
        """Hold theta_0 + E in the weights inside the block; the exact bits after it."""
        anchor, compose = self._moved_anchor, self.weights.kernels.compose
        if anchor is None:
            return self.at_base()
        return self.holding("at_anchor", lambda: compose(self.parts(anchor.kept)))

    @contextmanager
    def holding(self, by: str, write: Callable[[], None]) -> Iterator[None]:
        """Hold in the weights what `write` writes inside the block; the exact bits after it."""
        self.refuse_if_torn()
        with self.weights.held(by):
            try:
                write()
                yield
            finally:
                finish(self.round_weights)

    def reset(self) -> None:
        """Go back to before the first step: D and E 0, the weights at theta_0. A drift that an
        interruption left half-way is whole again."""
        with self.weights.held("reset"):
            self._torn = True
            for kept in self._every_kept().values():
                kept.clear()
            self.steps, self.changed, self._sum_of_squares = 0, 0, 0.0
            if self.anchor is not None:
                self.anchor.sum_of_squares = 0.0
            self.round_weights()
            self._torn = False

    def give_back(self) -> None:
        """Write theta_0 to the weights for good; the drift is of no use then."""
        with self.weights.held("give_back"):
            self._torn = True
            self._write_base()

    def _write_base(self) -> None:
        for part in self.parts():
            part.out.copy_(part.base)

    def round_weights(self) -> None:
        """Write theta = round(theta_0 + D) to the weights."""
        self.weights.kernels.compose(self.parts())

    def compose(self, piece: Piece) -> None:
        """Write theta = round(theta_0 + D) to a piece."""
        brought = self._stream.moved(self._parts_of(piece))
        self.weights.kernels.compose([self._part(piece, brought, self._kept)])

    def streamed(self) -> Iterator[tuple[Piece, Tensor, Tensor]]:
        """Yield each piece of the weights with theta_0 and D of it, brought to their device.

        theta_0 has the dtype of the weights, D is float32 as it is kept: (count,) each.
        """
        for piece, (base, *parts) in self._stream.brought(self.weights.pieces(), self._parts_of):
            yield piece, base, read(self._kept[piece.name].stored(parts))

    def parts(self, of: Mapping[str, KeptDrift] | None = None) -> Iterator[Part]:
        """Yield all weights with theta_0 and D as it is kept, or what else is kept like it, brought
        to their device: what kernels write theta from, or a member."""
        kept = self._kept if of is None else of
        pieces = self.weights.pieces(self.weights.kernels.fused and self.on_device)
        for piece, brought in self._stream.brought(pieces, partial(self._parts_of, kept=kept)):
            yield self._part(piece, brought, kept)

    def state(self) -> DriftState:
        """Return what `load` needs to go on from here; views of D where it lies on the host."""
        self.refuse_if_torn()
        every = self._every_kept()
        return DriftState(
            steps=self.steps,
            sum_of_squares=self._sum_of_squares,
            kind=self._kind,
            tensors={name: tensor.cpu() for name, tensor in tensors_of(every).items()},
            figures={name: kept.figures for name, kept in every.items()},
            anchor_squares=None if self.anchor is None else self.anchor.sum_of_squares,
        )

    def load(self, state: DriftState) -> None:
        """Go back, or on, to a state of a drift with the same base and seed.

        Steps from here make the bits that they made from there. A drift that an
        interruption left half-way is whole again.

        Raises:
            AnchorError: if the state is one of other tensors or kept otherwise; nothing changes.
        """
        every = self._every_kept()
        require_like(state, every, self._kind)
        with self.weights.held("load"):
            self._torn = True
            put_back(state, every)
            self.steps, self._sum_of_squares = state.steps, state.sum_of_squares
            if self.anchor is not None:
                self.anchor.sum_of_squares = state.anchor_squares
            self.round_weights()
            self._torn = False

    def refuse_if_torn(self) -> None:
        """Raise AnchorError if a step was interrupted half-way, or overflowed."""
        if self._torn:
            raise AnchorError(
                f"step {self.steps + 1} was not made whole, so the weights are between two steps",
                hint="load the model again and go on from the last recorded step",
            )

    def _move(self, update: Update) -> None:
        """Make a step of D, and round the weights."""
        # All are kept alike: either every one can decay without a pass or none. Codes take it
        # always: the pass counts those that change.
        if (
            update.nets
            or self.weights.coded
            or self._moved_anchor is not None
            or not all(k.decay_alone(update.pull, update.norm) for k in self._kept.values())
        ):
            self._update(update)
            return
        lengths = Tally()
        for piece, _, drift in self.streamed():
            lengths.note(piece.name, length(drift))
        self._sum_of_squares = lengths.sum_of_squares()
        self.round_weights()

    def _update(self, update: Update) -> None:
        anchor = self._moved_anchor if update.pull else None
        parts_of = self._parts_of if anchor is None else self._parts_of_both
        made = update_weights(self.weights, self._kept, self._stream, parts_of, update, anchor)
        if made.overflowed is not None:
            raise overflow(self.weights, made.overflowed, self.steps + 1)
        self._sum_of_squares, self.changed = made.sum_of_squares, made.changed

    @property
    def _moved_anchor(self) -> MovingAnchor | None:
        """None where it is theta_0: a step is then the one of an anchor that does not move."""
        return self.anchor if self.anchor is not None and self.anchor.sum_of_squares else None

    def _part(self, piece: Piece, brought: Parts, kept: Mapping[str, KeptDrift]) -> Part:
        base, *parts = brought
        stored = kept[piece.name].stored(parts)
        return Part(piece.name, piece.start, piece.flat, base, stored, piece.factors, piece.grid)

    def _base_part(self, piece: Piece) -> Tensor:
        first = piece.start // self.weights.per_item(piece.name)
        return self._base[piece.name][first : first + piece.flat.numel()]

    def _parts_of(self, piece: Piece, kept: Mapping[str, KeptDrift] | None = None) -> Parts:
        kept = self._kept if kept is None else kept
        return self._base_part(piece), *kept[piece.name].parts(piece.start, piece.count)

    def _parts_of_both(self, piece: Piece) -> Parts:
        return *self._parts_of(piece), *self.anchor.parts(piece)

    def _every_kept(self) -> dict[str, KeptDrift]:
        """Return D of each parameter under its name, E under "<name>:anchor"."""
        anchor = {} if self.anchor is None else self.anchor.kept
        return self._kept | {f"{name}:anchor": kept for name, kept in anchor.items()}
