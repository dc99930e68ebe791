"""The forecast: how long the drift will be, with or without signal."""

import math
from collections.abc import Callable

import torch

from esft.engine.anchor import pull_of
from esft.engine.journal_read import JournalRecord, alpha_of, contributions
from esft.engine.members import net_coefficients
from esft.engine.noise import derived_seed, noise

# Elements of the scalar recursion that stands for all weights under an L1 decay.
_SIMULATED = 1 << 16

IDLE = 0.01
"""A decay whose forecast is this close to none can do nothing within the run."""


class Forecast:
    """E||D|| of `numel` elements, step by step.

    Noises of different members are nearly orthogonal, so each step adds
    numel * (alpha / N)^2 * S to E||D||^2, S being the sum of the squared net coefficients of its
    distinct noises, and the decay acts after it. L2 has a closed form; for L1 the scalar
    recursion is simulated on 65,536 elements.
    """

    def __init__(self, numel: int, alpha: float, decay: float = 0.0, norm: str = "l2") -> None:
        self._numel, self._alpha, self._decay, self._norm = numel, alpha, decay, norm
        self._mean_square = 0.0
        self.norms = [0.0]
        """The expected ||D|| after each step, that of step 0 first."""
        simulates = pull_of(alpha, decay, norm) > 0 and norm == "l1"
        self._elements = torch.zeros(_SIMULATED) if simulates else None

    def step(self, size: int, squares: float, alpha: float | None = None) -> None:
        """Advance by a step: `size` is N, 0 for a decay alone; `squares` is S; `alpha` that of the
        step, where it has its own."""
        alpha = self._alpha if alpha is None else alpha
        pull = pull_of(alpha, self._decay, self._norm)
        spread = alpha / max(1, size) * math.sqrt(squares)
        if self._elements is None:
            keep = 1 - pull
            self._mean_square = keep * keep * (self._mean_square + spread * spread)
        else:
            seed = derived_seed("forecast", len(self.norms))
            self._elements += noise(seed, "forecast", 0, _SIMULATED).mul_(spread)
            shrunk = (self._elements.abs() - pull).clamp_(min=0)
            self._elements = torch.copysign(shrunk, self._elements)
            self._mean_square = float(self._elements.double().square().mean())
        self.norms.append(math.sqrt(self._numel * self._mean_square))


def forecast_norm(
    numel: int,
    steps: int,
    size: int,
    squares: float,
    alpha: float,
    decay: float = 0.0,
    norm: str = "l2",
    alpha_at: Callable[[int], float] | None = None,
) -> float:
    """Return the ||D|| to expect of a run before it starts: N is `size` and S `squares` in each
    of its steps, alpha of each step `alpha_at` of it where it has its own. Closed but for these and
    L1, which take as long as `steps` of the recursion."""
    pull = pull_of(alpha, decay, norm)
    if alpha_at is not None or (norm == "l1" and pull > 0):
        forecast = Forecast(numel, alpha, decay, norm)
        for step in range(1, steps + 1):
            forecast.step(size, squares, None if alpha_at is None else alpha_at(step))
        return forecast.norms[-1]
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
    forecast = Forecast(numel, header["alpha"], decay, header["norm"])
    for step in record.steps:
        members, coefficients = contributions(step, header)
        squares = sum_of_squares(net_coefficients(members, coefficients))
        forecast.step(len(members), squares, alpha_of(step, header))
    return forecast


def sum_of_squares(nets: list[tuple[int, float]]) -> float:
    """Return S of a step from its `net_coefficients`."""
    return math.fsum(net * net for _, net in nets)
