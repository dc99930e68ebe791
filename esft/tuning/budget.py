"""Where a run goes on that was above a budget, and when it ends.

It goes back to the last evaluated step that was within, takes twice the decay and makes the same
trials again, MOST_BACKS times; above once more, it ends with the best step within. Where there was
no decay, the first is told by the forecast, see `first_decay`.
"""

import math

from esft.engine.forecast import Forecast
from esft.engine.journal import Back
from esft.engine.members import expected_squares
from esft.errors import RunError
from esft.rollout.typed import known
from esft.runs.budget import Budget, Spent
from esft.runs.records import RecordedScore
from esft.tuning.session import Session

MOST_BACKS = 3
_LEAST = 0.75
"""Share of the free drift that a first decay leaves at most: more of it does too little."""
_MARGIN = 0.9  # a drift that ends at its budget is above as often as not
_POWER = 4
"""Of ||D||, with which a KL grows. Of a small drift it is 2; where one was too large, it was 0.3 to
0.4 at 35 and 0.03 at 19 on the embedded model."""
_HALVINGS = 6  # of the factor of 2 within which a first decay lies: to 1 percent
_MOST_DOUBLED = 2.0**20
_MOST_PULL = 0.5  # of L2 in a first decay: alpha * lambda is 1 at most


def nothing_within(spent: Spent) -> RunError:
    """Return the error of a run in which no evaluation after the base was within."""
    return RunError(
        f"{spent}; no evaluation before was within, so that there is no tuned model",
        hint="start a new run with a smaller --alpha, more members or a larger budget; or with "
        "--set prior.every lower, so that it goes back before it is too far",
    )


def budget_of(session: Session) -> Budget:
    """Return how far a run may go."""
    anchor = session.recipe.anchor
    return Budget(max_kl=anchor.max_kl, max_drift=anchor.max_drift)


def distance(session: Session) -> dict[str, object]:
    """Return what an evaluation records of how far the model is from the base model."""
    told: dict[str, object] = {"kl": None, "kl_se": None}
    if session.anchor_kl is not None:
        one = session.anchor_kl.of_all()
        told = {"kl": known(one.kl), "kl_se": known(one.se)}
    budget = budget_of(session)
    within = budget.above(**told, drift=session.base.drift.norm()) is None if budget else None
    return told | {"within": within}


def back_from(session: Session, score: RecordedScore, to: int, was: float) -> Back:
    """Return how a run goes on whose step in hand has an evaluation above a budget, from step `to`;
    `was` is lambda so far."""
    drift, alpha = session.base.drift.norm(), session.recipe.search.alpha
    awd = 2 * was
    if not was:
        awd = first_decay(session, to, score.step, _allowed(budget_of(session), score.kl, drift))
    elif session.recipe.anchor.norm == "l2" and alpha * awd >= 1:
        awd = (was + 1 / alpha) / 2  # half the way to a pull of all of D
    values = {"kl": score.kl, "kl_se": score.kl_se, "drift": drift}
    return Back(step=score.step, to=to, was=was, awd=awd, **values)


def _allowed(budget: Budget, kl: float | None, drift: float) -> float:
    """Return which share of a drift the budgets allow, see `_POWER`."""
    shares = [1.0]
    if budget.max_kl is not None and kl:
        shares.append((budget.max_kl / kl) ** (1 / _POWER))
    if budget.max_drift is not None:
        shares.append(budget.max_drift / drift)
    return min(shares)


def first_decay(session: Session, since: int, at: int, allowed: float) -> float:
    """Return the lambda from step `since` on with which the forecast of ||D|| after the last step
    is a tenth below what the budgets allow, `allowed` times the ||D|| of step `at`; 3/4 of the free
    one at most.

    To 3 digits. The forecast of steps to come takes S as it is expected of members.
    """
    search, norm = session.recipe.search, session.recipe.anchor.norm
    squares, _ = expected_squares(search.population, search.shaping, search.antithetic)

    def norms(awd: float) -> list[float]:
        forecast = Forecast(1, search.alpha, norm=norm, law=session.base.law)
        for step in range(1, search.steps + 1):
            (sigma, alpha), decay = search.at(step), awd if step > since else 0.0
            rest = decay, norm, session.recipe.anchor.follows
            forecast.step(search.population, squares, alpha, sigma, *rest)
        return forecast.norms

    free = norms(0.0)
    wanted = min(_LEAST * free[-1], _MARGIN * allowed * free[at])
    most = _MOST_PULL / search.alpha if norm == "l2" else math.inf
    # A pull that takes about the free drift away within the run, as a share of it or in weights.
    low = (1.0 if norm == "l2" else free[-1]) / search.steps / search.alpha
    while norms(low)[-1] < wanted:
        low /= 2
    most = min(most, low * _MOST_DOUBLED)  # towards an anchor that moves none may be enough
    high = min(2 * low, most)
    while high < most and norms(high)[-1] >= wanted:
        low, high = high, min(2 * high, most)
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if norms(middle)[-1] >= wanted else (low, middle)
    return float(f"{high:.3g}")
