"""The forecast: how long the drift will be, with or without signal."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from esft.engine.anchor import pull_of
from esft.engine.codes import Grid
from esft.engine.journal import JournalStep
from esft.engine.journal_read import JournalRecord, contributions, made_with
from esft.engine.kernels import chosen_kernels
from esft.engine.kernels.reference import decay_
from esft.engine.members import net_coefficients
from esft.engine.noise import CODES_VERSION, derived_seed, noise, whole_steps_square
from esft.engine.replayed import FADES, REPLAY

# Elements of the scalar recursion that stands for all weights under an L1 decay.
_SIMULATED = 1 << 16

# Of codes, which take as many draws as there are members.
_SIMULATED_CODES = 1 << 14
_FREE = Grid(-(1 << 20), 1 << 20)

IDLE = 0.01
"""A decay whose forecast is this close to none can do nothing within the run."""


@dataclass(frozen=True)
class Law:
    """What noise a drift is made of, in the units that it is in."""

    whole_steps: bool = False
    """Whether members take whole steps of a grid, of which D is a sum then."""
    at_bounds: float = 0.0
    """Share of the codes at an end of their grid, which half of the steps leave."""
    units: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    """How much of D a unit of noise is: (share of the elements, units), of any number of kinds.
    Others than 1 of codes whose noise is in units of the weights, see `Piece.in_steps_`."""

    def square(self, sigma: float | None) -> float:
        """Return the mean square of the noise of a member: of whole steps by its sigma."""
        if self.whole_steps:
            return whole_steps_square(sigma) * (1 - self.at_bounds / 2)
        return math.fsum(share * unit * unit for share, unit in self.units)

    def spread(self, count: int) -> Tensor:
        """Return the units of `count` elements, which stand for all: float32 (count,)."""
        shares, units = torch.tensor(((0.0, 0.0), *self.units), dtype=torch.float64).unbind(1)
        ends = shares.cumsum(0) / shares.sum() * count
        return units[1:].float().repeat_interleave(ends.round().long().diff())


NUMBERS = Law()


def law_of(header: Mapping) -> Law:
    """Return what noise the run of this header of a journal has."""
    units = tuple((share, unit) for share, unit in header.get("units", NUMBERS.units))
    whole_steps = header.get("noise_version") == CODES_VERSION
    return Law(whole_steps, header.get("at_bounds", 0.0), units)


@dataclass
class _Moments:
    """Means over the elements of D and E, the drift and the anchor where that moves."""

    drift: float = 0.0  # of D^2
    both: float = 0.0  # of D * E
    anchor: float = 0.0  # of E^2

    def step(self, spread: float, pull: float, tau: float) -> None:
        """Let D walk by `spread`, the decay bring it a share nearer to E, and E follow it."""
        keep, stay = 1 - pull, 1 - tau
        walked = self.drift + spread * spread
        pulled = 2 * keep * pull * self.both + pull * pull * self.anchor
        self.drift = keep * keep * walked + pulled
        self.both = keep * self.both + pull * self.anchor
        self.anchor = stay * stay * self.anchor + 2 * stay * tau * self.both
        self.anchor += tau * tau * self.drift
        self.both = stay * self.both + tau * self.drift


class Forecast:
    """E||D|| of `numel` elements, step by step.

    Noises of different members are nearly orthogonal, so each step adds
    numel * (alpha / N)^2 * S to E||D||^2, S being the sum of the squared net coefficients of its
    distinct noises, and the decay acts after it, towards E where the anchor moves. L2 has a closed
    form; for L1 the scalar recursion is simulated on 65,536 elements. Of codes, E u^2 of their
    noise comes in as a factor; of low rank, the mean square of how many steps of their grid a unit
    of weight is.
    """

    def __init__(
        self,
        numel: int,
        alpha: float,
        decay: float = 0.0,
        norm: str = "l2",
        law: Law = NUMBERS,
        replayed: bool = False,
    ) -> None:
        """`replayed`: of codes whose drift is not kept, see `ReplayedDrift`."""
        self._numel, self._alpha, self._decay, self._norm = numel, alpha, decay, norm
        self._law = law
        self._moments = _Moments()
        self.norms = [0.0]
        """The expected ||D|| after each step, that of step 0 first."""
        self._count = _SIMULATED_CODES if law.whole_steps else _SIMULATED
        self._elements: Tensor | None = None  # of D, where they are simulated; and of E
        self._left = torch.zeros(self._count) if replayed else None
        if replayed or (pull_of(alpha, decay, norm) > 0 and norm == "l1"):
            self._simulate()

    def _simulate(self) -> None:
        """Take elements that stand for all from here on, as far from 0 as they are now."""
        moments, self._units = self._moments, self._law.spread(self._count)
        self._elements, self._anchor = torch.zeros(self._count), torch.zeros(self._count)
        if moments.drift:
            follows = moments.both / moments.drift
            apart = max(0.0, moments.anchor - follows * moments.both)
            self._elements = self._drawn(0, moments.drift)
            self._anchor = self._elements * follows + self._drawn(1, apart)

    def _drawn(self, number: int, mean_square: float) -> Tensor:
        drawn = noise(derived_seed("forecast", 0, number), "forecast", 0, self._count)
        drawn *= self._units
        return drawn * math.sqrt(mean_square / float(drawn.square().mean()))

    def step(
        self,
        size: int,
        squares: float,
        alpha: float | None = None,
        sigma: float | None = None,
        decay: float | None = None,
        norm: str | None = None,
        tau: float = 0.0,
    ) -> None:
        """Advance by a step: `size` is N, 0 for a decay alone; `squares` is S; alpha, decay and
        norm those of the step, where it has its own; `sigma` too, which codes need; `tau` see
        `Drift.step`."""
        alpha = self._alpha if alpha is None else alpha
        decay = self._decay if decay is None else decay
        norm = self._norm if norm is None else norm
        mean_square = self._law.square(sigma)
        pull = pull_of(alpha, decay, norm)
        if pull > 0 and norm == "l1" and self._elements is None:
            self._simulate()
        walk = alpha / max(1, size) * math.sqrt(squares)  # of an element of unit 1
        spread = alpha / max(1, size) * math.sqrt(squares * mean_square)
        if self._elements is None:
            self._moments.step(spread, pull, tau)
        elif self._left is not None:
            if spread:
                share = spread / math.sqrt(size * mean_square)
                self._left *= FADES
                self._left += self._whole_steps(size, sigma).mul_(share)
                self._elements += self._left.round()
                self._left -= self._left.round()
        else:
            if not self._law.whole_steps:
                seed = derived_seed("forecast", len(self.norms))
                self._elements += noise(seed, "forecast", 0, _SIMULATED).mul_(self._units * walk)
            elif spread:
                share = spread / math.sqrt(size * mean_square)
                self._elements += self._whole_steps(size, sigma).mul_(share)
            apart = self._elements - self._anchor
            decay_(apart, pull, norm)
            self._elements = self._anchor + apart
            self._anchor = self._anchor + tau * apart
        if self._elements is not None:
            self._moments.drift = float(self._elements.double().square().mean())
        self.norms.append(math.sqrt(self._numel * self._moments.drift))

    def _whole_steps(self, size: int, sigma: float) -> Tensor:
        """Return the sum of the steps of `size` members: where few take one its law is not normal,
        and an L1 decay takes less of it."""
        total = torch.zeros(_SIMULATED_CODES)
        step = len(self.norms)
        seeds = [derived_seed("forecast", step, member) for member in range(size)]
        # Rewards as they fall by a normal law; their order tells codes nothing.
        scores = [NormalDist().inv_cdf((at + 0.5) / size) for at in range(size)]
        unit = math.sqrt(size / max(1e-9, math.fsum(score * score for score in scores)))
        pairs = [(seed, unit * score, 0.0) for seed, score in zip(seeds, scores, strict=True)]
        kernels = chosen_kernels(total.device)
        kernels.accumulate_codes(total, torch.zeros_like(total), _FREE, "forecast", 0, pairs, sigma)
        return total


def forecast_norm(
    numel: int,
    steps: int,
    size: int,
    squares: float,
    alpha: float,
    decay: float = 0.0,
    norm: str = "l2",
    scales_at: Callable[[int], tuple[float, float]] | None = None,
    law: Law = NUMBERS,
    sigma: float | None = None,
    replayed: bool = False,
    tau: float = 0.0,
) -> float:
    """Return the ||D|| to expect of a run before it starts: N is `size` and S `squares` in each
    of its steps, sigma and alpha of each step `scales_at` of it where it has its own. Closed but
    for these, L1 and an anchor that moves, which take as long as `steps` of the recursion."""
    pull = pull_of(alpha, decay, norm)
    if replayed or scales_at is not None or (pull > 0 and (norm == "l1" or tau > 0)):
        forecast = Forecast(numel, alpha, decay, norm, law, replayed)
        for step in range(1, steps + 1):
            sigma, alpha = (sigma, alpha) if scales_at is None else scales_at(step)
            forecast.step(size, squares, alpha, sigma, tau=tau)
        return forecast.norms[-1]
    squares *= law.square(sigma)
    # The sum of (1 - pull)^(2 t) over t = 1 to T, which for a small pull is all but T.
    passed = float(steps)
    if pull > 0:
        fade = 2 * math.log1p(-pull) if pull < 1 else -math.inf
        passed = math.exp(fade) * math.expm1(steps * fade) / math.expm1(fade)
    return alpha / size * math.sqrt(numel) * math.sqrt(squares) * math.sqrt(passed)


def forecast_of(record: JournalRecord, numel: int, free: bool = False) -> Forecast:
    """Return the forecast of a journal, at its last step, with the updates that it recorded.

    `free` leaves the decay out: how long the drift would be without it.
    """
    header = record.header
    decay = 0.0 if free else header["awd"]
    settings = header["alpha"], decay, header["norm"], law_of(header)
    forecast = Forecast(numel, *settings, header.get("drift") == REPLAY)
    for step in record.steps:
        advance(forecast, step, header, free)
    return forecast


def advance(
    forecast: Forecast, step: JournalStep, header: Mapping[str, object], free: bool = False
) -> None:
    """Advance a forecast by a step of a journal; `free` leaves the decay out."""
    members, coefficients = contributions(step, header)
    squares, made = sum_of_squares(net_coefficients(members, coefficients)), made_with(step, header)
    decay = 0.0 if free else made.awd
    forecast.step(len(members), squares, made.alpha, made.sigma, decay, made.norm, made.tau)


def sum_of_squares(nets: list[tuple[int, float]]) -> float:
    """Return S of a step from its `net_coefficients`."""
    return math.fsum(net * net for _, net in nets)
