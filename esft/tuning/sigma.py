"""`--sigma auto`: members at some sigmas first, on a twentieth of the rows that the run answers."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from esft.engine.members import population
from esft.errors import RecipeError
from esft.recipe.settings import Recipe
from esft.rollout.encode import EncodedRow
from esft.rollout.results import RowResult
from esft.runs.steps import ProbeRecord
from esft.tuning.first_steps import remedies
from esft.tuning.plan import moving_sigma
from esft.tuning.probe import (
    FEWEST_MEMBERS,
    FEWEST_ROWS,
    Trial,
    refuse_overflow,
    sigmas_around,
    tried,
)
from esft.tuning.recommend import picked, reach_by, reach_of, rounded
from esft.tuning.session import (
    Opened,
    Session,
    fit_batch,
    open_session,
    refuse_chain,
    rows_of_step,
    with_seed,
)
from esft.tuning.threads import fit_threads
from esft.tuning.watcher import Watcher

SHARE = 0.05
"""Of all rows that the run's members answer, those that are answered to try sigmas."""
_MEMBERS, _MOST_MEMBERS = 8, 30
_ROWS, _MOST_ROWS = 8, 128
"""Of each sigma, and that each of them sees, where the run affords them."""
_ROUNDED = 1e-9
NEAR = (1 / 3, 1.0, 3.0)
"""Sigmas that are tried, of what the weights' size says."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Settings that were chosen, and the model that they were tried on."""

    changes: dict[str, object]  # "table.key" to value
    because: str
    probed: ProbeRecord
    opened: Opened


def choose_sigma(
    recipe: Recipe, typed: Collection[str], watcher: Watcher, named: Collection[str] = ()
) -> Chosen:
    """Try members at some sigmas, and choose one for a run; and alpha, where nothing says it.

    Loads the model. Alpha is that by which all steps walk as far as `recommend.reach_by` says. One
    that was typed or that a recipe file has stays, since the drift of a step depends on it and not
    on sigma; `typed` and `named` as in `fit_minutes`.

    Raises:
        RecipeError: if the run is too short for a trial. EsftError as `open_session`.
    """
    refuse_chain(recipe, "--sigma auto")
    given, recipe = recipe, with_seed(recipe)
    watcher.phase(f"loading {recipe.model.id}")
    session = open_session(recipe)
    fit_threads(session, watcher)
    fit_batch([session], watcher)
    members, rows = sizes_for(session.recipe)
    watcher.phase(f"trying {members} members at each of {len(NEAR)} sigmas, on {rows} rows")
    train = session.train
    sample = [train[row] for row in rows_of_step(1, len(train), rows, recipe.search.seed)]
    trial = trial_of(session, members, sample, session.rollout.roll_out(sample))
    sigma, why, record = chosen_by(trial, watcher)
    changes: dict[str, object] = {"search.sigma": sigma}
    if given.search.seed is None:
        changes["search.seed"] = recipe.search.seed
    if "search.alpha" not in {*typed, *named}:
        search = replace(recipe.search, sigma=sigma)
        reach = reach_by({one.sigma: one.verdict for one in record.sigmas}, sigma)
        changes["search.alpha"] = rounded(
            search.alpha * reach / reach_of(search, recipe.model.weights)
        )
    return Chosen(
        changes=changes,
        because=why,
        probed=record,
        opened=Opened(session.base.loaded, session.room),
    )


def chosen_by(trial: Trial, watcher: Watcher) -> tuple[float, str, ProbeRecord]:
    """Return the sigma of a trial, why, and what a run keeps of it."""
    found = list(tried(trial, sigmas_to_try(trial.session), watcher))
    sigma, why, told = picked({one.sigma: (one.verdict, one.signal) for one in found})
    if not told:
        ways, _ = remedies(trial.session)
        watcher.notice(f"sigma {sigma:g} is taken {why}; try {ways}, or esft probe")
    others = "".join(f"; {one.sigma:g}: {one.verdict}" for one in found if one.sigma != sigma)
    return sigma, f"sigma {sigma:g}: {why}{others}", trial.record(found, sigma)


def sigmas_to_try(session: Session) -> list[float]:
    """Return the sigmas, without those that round away in the weights' dtype."""
    sigmas = sigmas_around(session, NEAR)
    # Members that share a batch change no weight, and codes take few steps, but whole ones.
    if session.batched is not None or session.base.weights.coded:
        return sigmas
    member = population(session.recipe.search.seed, 0, 1, False)[0]
    moving = moving_sigma(session.base.weights, member, sigmas[0])
    return [sigma for sigma in sigmas if sigma >= moving] or [moving]


def trial_of(
    session: Session,
    members: int,
    rows: Sequence[EncodedRow],
    base: Sequence[RowResult],
) -> Trial:
    """Return so many members, of no step of a run, to try on rows that the base has answered;
    RunError if it overflowed."""
    refuse_overflow(session, base)
    own = population(session.recipe.search.seed, 0, members, False)
    return Trial(session=session, members=own, rows=rows, base=base)


def sizes_for(recipe: Recipe) -> tuple[int, int]:
    """Return how many members of each sigma a run can afford to try, and on how many rows.

    Rather fewer rows than fewer than 8 members; `recipe` has the number of train rows.

    Raises:
        RecipeError: if there are too few of either.
    """
    search, task = recipe.search, recipe.task
    if task.train < FEWEST_ROWS:
        raise RecipeError(
            f"--sigma auto tries members on {FEWEST_ROWS} rows at least, there are {task.train} to "
            "tune on",
            hint="add rows, or give a --sigma",
        )
    per_step = task.train if task.rows_per_step is None else task.rows_per_step
    # Rows that are answered in all, with the base as one more member of all sigmas.
    afforded = SHARE * search.steps * search.population * per_step / len(NEAR)
    base = 1 / len(NEAR)
    rows = min(_MOST_ROWS, max(per_step, FEWEST_ROWS))
    for members in (_MEMBERS, FEWEST_MEMBERS):
        if afforded >= rows * (members + base):
            return min(_MOST_MEMBERS, int(afforded / rows - base + _ROUNDED)), rows
        fewer = min(rows, int(afforded / (members + base)))
        if fewer >= (_ROWS if members > FEWEST_MEMBERS else FEWEST_ROWS):
            return members, fewer
    least = FEWEST_ROWS * (FEWEST_MEMBERS + base) * len(NEAR) / SHARE
    steps = math.ceil(least / search.population / per_step)
    raise RecipeError(
        f"--sigma auto tries members for {SHARE:.0%} of the run, too little of {search.steps} "
        f"steps of {search.population} members on {per_step} rows",
        hint=f"--steps {steps} or more, or a --sigma, which esft probe recommends",
    )
