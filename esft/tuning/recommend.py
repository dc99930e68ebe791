"""What to tune with, from what members at some sigmas tell: the rules of `esft probe`.

- sigma: of those that work, the one whose best member is likely to gain most on other rows.
- population: 12 members whose rewards were exact are the fewest that small models learned with
  here. A reward of reliability r adds to the update's direction what r exact ones would, in the
  square of the cosine with what is best; so 12 / r, with r at the rows of a step. From 8 to 64, and
  even, as antithetic pairs are.
- alpha: by which the whole run walks as far as `REACH` says, whatever the recipe has: that
  may count on a larger population. But at most `STANDS` of the smallest sigma that is too large: a
  random walk so long is noise of that sigma.
- reward: the one that there is; where it has no signal and the task has another, that one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from esft.models.device import FLOAT
from esft.recipe.settings import Recipe, Search
from esft.rollout.results import RowResult, cut_share
from esft.stats.signal import MUTE, Kind, Signal, at_rows
from esft.tuning.first_steps import remedies
from esft.tuning.session import Session

SIGMA = 1 / 30
"""Of the root mean square of the weights: SmolLM2-135M, 0.18, learned with a sigma of 0.006."""
REACH = 2.0
"""How far all steps together would walk at random, in sigma: alpha * sqrt(steps / N) / sigma, which
is 2 at the published settings."""
STANDS = 0.5
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
    if all(kind != "works" for kind, _ in tried.values()):
        return _nothing(session, base, tried)
    best, *_ = picked(tried)
    signal = tried[best][1]
    times = (recipe.task.rows_per_step or len(session.train)) / len(base)
    reliable = at_rows(max(_LEAST, signal.reliability), times)
    fewest, most = _POPULATION
    members = 2 * max(fewest // 2, min(most // 2, math.ceil(_EXACT / reliable / 2 - 1e-9)))
    search = replace(recipe.search, sigma=best, population=members)
    reach = reach_by({sigma: kind for sigma, (kind, _) in tried.items()}, best)
    return Recommendation(
        sigma=best,
        alpha=rounded(search.alpha * reach / reach_of(search, recipe.model.weights)),
        population=members,
        reward=recipe.task.reward,
        verdict="works",
        why=f"of those that work, its best member is likely to gain most on other rows: "
        f"{signal.likely_best:+.3g}",
    )


def picked(tried: Mapping[float, tuple[Kind, Signal]]) -> tuple[float, str, bool]:
    """Return the sigma of a run that takes one in any case, why, and whether members told it.

    Of those that work the one that is recommended. Else the largest that changes rewards and that
    members stand: few members seldom show that a sigma is too large, so it is not taken where their
    mean falls by more than they differ, whether or not chance can do that. Where rewards do not
    change, also since there were none to lose, the middle one, which the weights' size says.
    """
    working = {sigma: signal for sigma, (kind, signal) in tried.items() if kind == "works"}
    if working:
        best = max(working, key=lambda sigma: working[sigma].likely_best)
        return best, "its best member is likely to gain most", True
    standing = {
        sigma: signal
        for sigma, (kind, signal) in tried.items()
        if kind != "too large" and -signal.change <= signal.spread
    }
    telling = [sigma for sigma, signal in standing.items() if signal.telling >= MUTE]
    if telling:
        why = "the largest tried that members stand; too few members or rows to tell more"
        return max(telling), why, True
    if standing:
        middle = sorted(tried)[len(tried) // 2]
        return middle, "by the size of the weights: members hardly differ at those tried", False
    return min(tried), "the smallest tried: at all of them members lose", False


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
    elif min(rewards) == max(rewards) == 0 and (cut_share(base) or 0.0) > 0.5:
        cap = session.rollout.max_new_tokens
        why = f"no row of {len(rewards)} earns anything, and {cut_share(base):.0%} of the answers "
        why += f"are cut off: --set task.max_new_tokens={2 * cap}, or {ways}"
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


def reach_by(verdicts: Mapping[float, str], sigma: float) -> float:
    """Return how far a run at `sigma` is to walk, in that, by the verdicts of the sigmas tried."""
    too_large = [one for one, kind in verdicts.items() if kind == "too large" and one > sigma]
    return min([REACH, *(STANDS * one / sigma for one in too_large)])


def reach_of(search: Search, weights: str = FLOAT) -> float:
    """Return how far a random walk of all steps goes, in what a member goes; see REACH.

    That is sigma, which alpha is in the units of; but codes whose members take whole steps are
    updated by what they took, so that alpha is a share of that.
    """
    walked = search.alpha * math.sqrt(search.steps)
    if search.anneal is not None:
        alphas = [search.at(step)[1] for step in range(1, search.steps + 1)]
        walked = math.sqrt(math.fsum(alpha * alpha for alpha in alphas))
    member = search.sigma if weights == FLOAT or search.low_rank is not None else 1.0
    return walked / math.sqrt(search.population) / member


def rounded(value: float) -> float:
    """Return a number in two digits: what the printed command says is what is used."""
    return float(f"{value:.2g}")
