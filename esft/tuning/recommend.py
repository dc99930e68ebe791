"""What to tune with, from what members at some sigmas tell: the rules of `esft probe`.

- sigma: of those that work, the one whose best member is likely to gain most on other rows.
- population: 12 members whose rewards were exact are the fewest that small models learned with
  here. A reward of reliability r adds to the update's direction what r exact ones would, in the
  square of the cosine with what is best; so 12 / r, with r at the rows of a step. From 8 to 64, and
  even, as antithetic pairs are.
- alpha: by which the whole run walks as far as `minutes.REACH` says, whatever the recipe has: that
  may count on a larger population.
- reward: the one that there is; where it has no signal and the task has another, that one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from esft.recipe.settings import Recipe
from esft.rollout.results import RowResult
from esft.stats.signal import Kind, Signal, at_rows
from esft.tuning.first_steps import remedies
from esft.tuning.minutes import REACH, reach_of, rounded
from esft.tuning.session import Session

_EXACT, _POPULATION = 12, (8, 64)
_LEAST = 0.01
"""Of a reliability: a signal that was found is not nothing."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to tune with: None where the probe does not tell."""

    sigma: float | None
    alpha: float | None
    population: int | None
    reward: str | None
    verdict: Kind
    why: str

    @property
    def changes(self) -> dict[str, object]:
        """Return what it sets, as "table.key" to value."""
        values = {
            "search.sigma": self.sigma,
            "search.alpha": self.alpha,
            "search.population": self.population,
            "task.reward": self.reward,
        }
        return {key: value for key, value in values.items() if value is not None}


def recommended(
    recipe: Recipe,
    session: Session,
    base: Sequence[RowResult],
    tried: Mapping[float, tuple[Kind, Signal]],
) -> Recommendation:
    """Return the recommendation; see the top of the module.

    Args:
        session: of the probe of `recipe`.
        base: what the base model made of the rows that the members saw.
        tried: sigma to its verdict and what its members tell.
    """
    working = {sigma: signal for sigma, (kind, signal) in tried.items() if kind == "works"}
    if not working:
        return _nothing(session, base, tried)
    best = max(working, key=lambda sigma: working[sigma].likely_best)
    times = (recipe.task.rows_per_step or len(session.train)) / len(base)
    reliable = at_rows(max(_LEAST, working[best].reliability), times)
    fewest, most = _POPULATION
    members = 2 * max(fewest // 2, min(most // 2, math.ceil(_EXACT / reliable / 2 - 1e-9)))
    search = replace(recipe.search, sigma=best, population=members)
    return Recommendation(
        sigma=best,
        alpha=rounded(search.alpha * REACH / reach_of(search)),
        population=members,
        reward=recipe.task.reward,
        verdict="works",
        why=f"of those that work, its best member is likely to gain most on other rows: "
        f"{working[best].likely_best:+.3g}",
    )


def _nothing(
    session: Session,
    base: Sequence[RowResult],
    tried: Mapping[float, tuple[Kind, Signal]],
) -> Recommendation:
    """Return that no sigma works, why, and what to try."""
    kinds, sigmas = {kind for kind, _ in tried.values()}, sorted(tried)
    rewards = [result.reward for result in base]
    ways, other = remedies(session)
    verdict: Kind = "no signal"
    if kinds == {"too large"}:
        verdict, other = "too large", None
        why = f"every sigma is too large: smaller --sigmas, below {sigmas[0]:g}"
    elif all(result.correct for result in base) and min(rewards) == max(rewards) > 0:
        why = f"all {len(rewards)} rows are right already: harder rows"
    elif min(rewards) == max(rewards) == 0:
        why = f"no row of {len(rewards)} earns anything: {ways}"
    elif kinds <= {"mute", "too large"}:
        verdict = "mute"
        why = f"members hardly differ, or lose: --sigmas between those tried, or {ways}"
        if kinds == {"mute"}:
            why = f"members hardly differ: --sigmas above {sigmas[-1]:g}, or {ways}"
    else:
        why = f"what sets members apart is chance: more --rows or --members, or {ways}"
    return Recommendation(
        sigma=None, alpha=None, population=None, reward=other, verdict=verdict, why=why
    )
