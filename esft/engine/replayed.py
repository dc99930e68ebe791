"""A drift of codes that takes no memory: what rounding left over is made again from past steps."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from esft.engine.drift import Drift
from esft.engine.drift_state import DriftState, require_kind
from esft.engine.kernels import Kernels
from esft.engine.kernels.reference import Found, Update, allowed
from esft.engine.stream import Tally, length
from esft.engine.undo import finish
from esft.engine.weights import Piece, Weights
from esft.errors import AnchorError

REPLAY = "replay"
"""What [anchor] drift is of such a run."""
KEPT_STEPS = 50
"""Steps whose updates are made again in each step."""
FADES = 0.9
"""Share of what is left over that the next step takes."""


class ReplayedDrift(Drift):
    """The codes of some weights, which are all that a run owns: D is how far they are from theirs.

    A step makes the updates of the last KEPT_STEPS again from their seeds, one after the other, to
    know what rounding them left over, and adds its own:

        x = FADES * left + alpha / N * sum_i c_i * u_i
        W = W + round(x), where that is on the grid;  left = x - what was added

    Steps beyond the grid are told by the codes as they are now, also for past steps. There is no D
    that a decay could shrink.

    Args:
        weights: all of them codes, at their base values.
        store, base: see `Drift`.

    Raises:
        ValueError: if a parameter is not codes, or noise is of low rank; as `Drift` too.

    Source: arXiv:2602.03120, the stateless variant (seed replay of the residual).
    """

    def __init__(
        self,
        weights: Weights,
        store: str = "cpu",
        seed: int = 0,
        *,
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        floats = [name for name in weights.names if weights.grid(name) is None]
        if floats:
            raise ValueError(f"{floats[0]} is of floats, expected codes alone for a replayed drift")
        if not weights.whole_steps:
            raise ValueError("noise is of low rank, expected that of whole steps")
        self._begin(weights, store, REPLAY, seed, base)
        self._past: deque[Update] = deque(maxlen=KEPT_STEPS)
        self.on_device = False  # members are undone by what they did: there is nothing else
        weights.claim()

    # What a log may fall back to, and what takes steps back, since no decay acts: nothing.
    compose = reset = None

    @property
    def nbytes(self) -> int:
        """Bytes of theta_0, unless it lies on disk."""
        return 0 if self._store == "disk" else sum(part.nbytes for part in self._base.values())

    def step(self, members, coefficients, alpha, decay=0.0, norm="l2", sigma=None, tau=0.0) -> None:
        """See `Drift.step`; ValueError for a decay."""
        if decay:
            raise ValueError(f"decay is {decay}, expected 0: a replayed drift has none to shrink")
        super().step(members, coefficients, alpha, decay, norm, sigma, tau)

    @contextmanager
    def holding(self, by: str, write: Callable[[], None]) -> Iterator[None]:
        """Hold in the weights what `write` writes inside the block; the exact bits after it."""
        self.refuse_if_torn()
        with self.weights.held(by):
            kept = {name: tensor.clone() for name, tensor in self._codes().items()}
            try:
                write()
                yield
            finally:
                finish(lambda: self._write(kept))

    def round_weights(self) -> None:
        """Leave the weights: they are the state."""

    def streamed(self) -> Iterator[tuple[Piece, Tensor, Tensor]]:
        """Yield each piece of the weights with theta_0 and D of it; see `Drift.streamed`."""
        for piece, (base,) in self._stream.brought(self.weights.pieces(), self._base_of):
            yield piece, base, _codes_of(piece, piece.flat) - _codes_of(piece, base)

    def state(self) -> DriftState:
        """Return what `load` needs to go on from here: the codes, and the steps that are made
        again."""
        self.refuse_if_torn()
        return DriftState(
            steps=self.steps,
            sum_of_squares=self._sum_of_squares,
            kind=self._kind,
            tensors=_as_tensors(self._past) | {n: t.cpu() for n, t in self._codes().items()},
            figures={},
        )

    def load(self, state: DriftState) -> None:
        """Go back, or on, to a state; see `Drift.load`."""
        require_kind(state, self._kind)
        codes = self._codes()
        has = {name: state.tensors[name] for name in codes if name in state.tensors}
        if [t.shape for t in has.values()] != [t.shape for t in codes.values()]:
            raise AnchorError(
                "the saved drift is of other codes, expected those that are tuned",
                hint="take the model, include and exclude that the drift was saved with",
            )
        with self.weights.held("load"):
            self._torn = True
            self._write(has)
            self._past = deque(_as_updates(state.tensors), maxlen=KEPT_STEPS)
            self.steps, self._sum_of_squares = state.steps, state.sum_of_squares
            self._torn = False

    def _update(self, update: Update) -> None:
        steps, lengths, changed = (*self._past, update), Tally(), Tally()
        for piece, (base,) in self._stream.brought(self.weights.pieces(), self._base_of):
            found = _step(self.weights.kernels, piece, base, steps)
            lengths.note(piece.name, found.length)
            changed.note(piece.name, found.changed)
        self._past.append(update)
        self._sum_of_squares = lengths.sum_of_squares()
        self.changed = int(sum(count for _, count in changed.read()))

    def _write_base(self) -> None:
        for piece, (base,) in self._stream.brought(self.weights.pieces(), self._base_of):
            piece.flat.copy_(base)

    def _base_of(self, piece: Piece) -> tuple[Tensor]:
        return (self._base_part(piece),)

    def _codes(self) -> dict[str, Tensor]:
        return {name: self.weights.flat(name) for name in self.weights.names}

    def _write(self, codes: Mapping[str, Tensor]) -> None:
        for name, flat in self._codes().items():
            flat.copy_(codes[name])


def _codes_of(piece: Piece, stored: Tensor) -> Tensor:
    return piece.grid.unpack(stored).float()


def _step(kernels: Kernels, piece: Piece, base: Tensor, steps: tuple[Update, ...]) -> Found:
    """Make the last of some steps, those before it to know what they left over."""
    codes = _codes_of(piece, piece.flat)
    left, total = torch.zeros_like(codes), torch.empty_like(codes)
    for update in steps:
        where = codes, piece.grid, piece.name, piece.start
        kernels.accumulate_codes(total.zero_(), *where, update.pairs, update.sigma)
        left *= FADES
        left += total.mul_(update.scale)
        whole = left.round()
        # Also where an update is so large that it is no number.
        whole = torch.where(allowed(codes + whole, piece.grid), whole, 0.0)
        left -= whole
    after = codes + whole
    piece.flat.copy_(piece.grid.pack(after.to(torch.int8)))
    drift = after - _codes_of(piece, base)
    return Found(0.0, length(drift), 0.0, (whole != 0).sum())


def _as_tensors(past: deque[Update]) -> dict[str, Tensor]:
    """Return past steps as a snapshot keeps them: each number exactly."""
    pairs = [pair for update in past for pair in update.pairs]
    rows = [(len(update.pairs), update.sigma, update.scale) for update in past]
    return {
        "past:seeds": torch.tensor([seed for seed, *_ in pairs], dtype=torch.int64),
        "past:nets": torch.tensor([pair[1:] for pair in pairs], dtype=torch.float64).view(-1, 2),
        "past:steps": torch.tensor(rows, dtype=torch.float64).view(-1, 3),
    }


def _as_updates(tensors: Mapping[str, Tensor]) -> Iterator[Update]:
    seeds, nets = tensors["past:seeds"].tolist(), tensors["past:nets"].tolist()
    pairs = [(seed, *net) for seed, net in zip(seeds, nets, strict=True)]
    for count, sigma, scale in tensors["past:steps"].tolist():
        own, pairs = pairs[: int(count)], pairs[int(count) :]
        yield Update((), scale, 0.0, "l2", 0, own, sigma)
