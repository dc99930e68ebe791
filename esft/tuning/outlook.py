"""What noise and decay will come to where nothing is learned, told before the first step."""

import math
from collections.abc import Sequence
from dataclasses import replace

from esft.engine.anchor import pull_of
from esft.engine.forecast import IDLE, NUMBERS, Forecast, Law, forecast_norm
from esft.engine.members import expected_squares
from esft.engine.replayed import REPLAY
from esft.recipe.settings import Anchor, Search


def changed_by_chance(search: Search, anchor: Anchor, law: Law) -> float:
    """Return the share of the codes that all steps change where nothing is learned."""
    moved = expected_norm(1, search, anchor, law)
    mean = math.sqrt(math.fsum(share * unit * unit for share, unit in law.units))
    return math.fsum(
        share * math.erfc(0.5 * mean / (moved * unit) / math.sqrt(2))
        for share, unit in law.units
        if moved * unit
    )


def decay_effect(
    numel: int,
    search: Search,
    anchor: Anchor,
    law: Law = NUMBERS,
    earlier: Sequence[tuple[Search, Anchor]] = (),
) -> tuple[str, str | None]:
    """Return what the decay will do, and a warning where it can do nothing within the run, or the
    stage that comes after `earlier` ones.

    The decay is measured by the forecast of ||D|| with and without it (see `Forecast`).
    """
    size, alpha = search.population, search.alpha
    squares, most = expected_squares(size, search.shaping, search.antithetic)

    def forecast(squares: float, awd: float) -> float:
        own = replace(anchor, awd=awd)
        return expected_norm(numel, search, own, law, squares, earlier)

    free, held = forecast(squares, 0.0), forecast(squares, anchor.awd)
    told = f"||D|| forecast {held:.3g} after the last step"
    if search.antithetic:
        told += f" (0 to {forecast(most, anchor.awd):.3g}, as rewards of pairs are alike or differ)"
    if anchor.awd == 0:
        return f"none: the drift is free, {told}", None
    pull = pull_of(alpha, anchor.awd, anchor.norm)
    if anchor.norm == "l2":
        # The whole steps after which half of a drift is gone.
        half = 1.0 if pull >= 0.5 else math.log(2) / -math.log1p(-pull)
        whole = f"{math.ceil(half):,}" if half < 1e9 else f"{half:.2g}"
        effect = f"half-life {whole} step{'s' if half > 1 else ''}"
    else:
        walk = alpha / size * math.sqrt(squares * law.square(search.sigma))
        effect = f"against a random-walk step of {walk:.2g} a weight"
    if anchor.follows:
        effect += f", towards an anchor that follows about {1 / anchor.follows:.3g} steps behind"
    if anchor.move == "stage" and earlier:
        effect += ", towards where the stage before ended"
    text = (
        f"{anchor.norm.upper()}, alpha * lambda {pull:.2g} a step, {effect}; {told}, "
        f"{free:.3g} without"
    )
    if held < (1 - IDLE) * free:
        return text, None
    return text, (
        f"this decay does next to nothing within {search.steps} steps: the forecast of ||D|| is "
        f"{held:.4g} with it and {free:.4g} without; raise --awd or --steps"
    )


def expected_norm(
    numel: int,
    search: Search,
    anchor: Anchor,
    law: Law,
    squares: float | None = None,
    earlier: Sequence[tuple[Search, Anchor]] = (),
) -> float:
    """Return the ||D|| to expect after the last step of the last stage; `squares` of it, as in
    `forecast_norm`."""
    if squares is None:
        squares, _ = expected_squares(search.population, search.shaping, search.antithetic)
    if earlier:
        forecast = Forecast(numel, search.alpha, law=law, replayed=anchor.drift == REPLAY)
        for one, held in (*earlier, (search, anchor)):
            if one is not search:
                own, _ = expected_squares(one.population, one.shaping, one.antithetic)
            for step in range(1, one.steps + 1):
                sigma, alpha = one.at(step)
                of_step = squares if one is search else own
                tau = held.follows_at(step == one.steps and one is not search)
                forecast.step(one.population, of_step, alpha, sigma, held.awd, held.norm, tau)
        return forecast.norms[-1]
    steps = numel, search.steps, search.population, squares, search.alpha, anchor.awd, anchor.norm
    how = None if search.anneal is None else search.at, law, search.sigma, anchor.drift == REPLAY
    return forecast_norm(*steps, *how, anchor.follows)
