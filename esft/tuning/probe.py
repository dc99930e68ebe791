"""Which sigma, alpha and population a run should take: the same members and rows at some sigmas.

What is measured of a sigma, and its verdict: `esft.stats.signal`. The members that did best are
scored again on fresh rows: on those that chose them, chance had its part.

What it recommends, and by which rule: `esft.tuning.recommend`.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from esft.engine.measures import root_mean_square
from esft.engine.members import Member, population
from esft.engine.perturb import unmoved_share
from esft.errors import RecipeError, RunError
from esft.recipe.settings import Recipe, with_settings
from esft.rollout.encode import EncodedRow
from esft.rollout.results import RowResult, cut_share, kept_right, mean_reward
from esft.runs.steps import ProbeRecord, TriedSigma
from esft.stats.signal import LEVEL, Kind, Signal, signal_of
from esft.tuning.population import Laps, Population
from esft.tuning.recommend import SIGMA, Recommendation, recommended, rounded
from esft.tuning.session import Session, fit_batch, open_session, refuse_chain, rows_of_step
from esft.tuning.tasks import task_and_rows
from esft.tuning.threads import fit_threads
from esft.tuning.watcher import Watcher

ROWS, MOST_ROWS = 32, 128
"""Without others: ROWS where a step sees all rows, else as many as it sees, to MOST_ROWS."""
AROUND = (1 / 9, 1 / 3, 1.0, 3.0)
"""Sigmas that are tried, of `recommend.SIGMA` times the weights' size."""
FEWEST_MEMBERS, FEWEST_ROWS = 4, 4
"""Two members of a kind, and two rows of a half."""
MOST_SIGMAS = 16
"""Each may claim a signal at LEVEL / 16, which the deals of `esft.stats.signal` can just tell."""
KEPT = 0.5
"""A sigma at which members surely lose more of what the base answers right is too large, whatever
the reward says."""
_BEST = 3


@dataclass(frozen=True, kw_only=True)
class ProbedSigma:
    """What was measured of a sigma; changes are of the reward, against the base."""

    sigma: float
    verdict: Kind
    why: str
    signal: Signal
    members_again: int  # the best, that were scored on fresh rows too
    changes: tuple[float, ...]  # of each member's mean reward; NaN where it overflowed
    chosen_change: float  # mean of theirs on the rows that chose them
    fresh_change: float
    kept: float | None
    """Share right, mean over the members, of the rows that the base answers right; None where that
    is not looked at, or of too few rows."""
    unmoved: float | None  # share of weights; None where members share batches
    member_s: float

    @property
    def bias(self) -> float:
        """By how much the rows that chose the best members flatter them."""
        return self.chosen_change - self.fresh_change


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What a probe came to."""

    model: str
    task: str
    seed: int
    members: int
    rows: int
    base_reward: float
    base_fresh_reward: float
    base_correct: float | None  # share of rows; None where it was not looked at
    base_cut: float | None  # share of answers cut off at max_new_tokens, likewise
    sigmas: tuple[ProbedSigma, ...]
    asked: tuple[float, ...]  # those to try; fewer were measured where it was stopped
    recommendation: Recommendation

    @property
    def stopped(self) -> bool:
        return len(self.sigmas) < len(self.asked)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What members are tried on: rows with the results of the base, and fresh ones, or none."""

    session: Session
    members: Sequence[Member]
    rows: Sequence[EncodedRow]
    base: Sequence[RowResult]
    fresh: Sequence[EncodedRow] = ()
    base_fresh: Sequence[RowResult] = ()

    def record(self, found: Sequence[ProbedSigma], chosen: float) -> ProbeRecord:
        """Return what a run keeps of it."""
        names = ("sigma", "verdict", "why", "changes")
        return ProbeRecord(
            members=len(self.members),
            rows=len(self.rows),
            base_reward=mean_reward(self.base),
            chosen=chosen,
            sigmas=tuple(
                TriedSigma(**{name: getattr(one, name) for name in names}) for one in found
            ),
        )


def run_probe(
    recipe: Recipe,
    watcher: Watcher,
    *,
    sigmas: Sequence[float] | None = None,
    members: int,
    rows: int | None = None,
) -> Probed:
    """Try members at some sigmas, and say which settings to tune with.

    Ctrl-C ends it with the sigmas that were measured by then; before the first one it goes on up.

    Args:
        sigmas: increasing; AROUND what the weights' size says, without.
        rows: that every member sees; as many more are fresh. See ROWS, and at most half of the
            train rows, without.

    Raises:
        RecipeError: for sigmas, members or rows that no probe can be made of. EsftError as
            `open_session`. RunError if the base model overflows.
    """
    refuse_chain(recipe, "esft probe")
    _refuse(sigmas, members)
    probe = _begin(recipe, members, _checked_rows(recipe, rows), watcher)
    session = probe.session
    sigmas = sigmas_around(session, AROUND) if sigmas is None else sigmas
    found: list[ProbedSigma] = []
    try:
        for one in tried(probe, sigmas, watcher):
            found.append(one)
    except KeyboardInterrupt:
        if not found:
            raise
    correct = [result.correct for result in probe.base]
    return Probed(
        model=recipe.model.id,
        task=session.rollout.task.name,
        seed=session.recipe.search.seed,
        members=members,
        rows=len(probe.rows),
        base_reward=mean_reward(probe.base),
        base_fresh_reward=mean_reward(probe.base_fresh),
        base_correct=None if None in correct else sum(correct) / len(correct),
        base_cut=cut_share(probe.base),
        sigmas=tuple(found),
        asked=tuple(sigmas),
        recommendation=recommended(
            recipe, session, probe.base, {one.sigma: (one.verdict, one.signal) for one in found}
        ),
    )


def sigmas_around(session: Session, times: Sequence[float]) -> list[float]:
    """Return sigmas to try, so many times what the weights' size says."""
    size = SIGMA * root_mean_square(session.base.weights)
    return [rounded(size * factor) for factor in times]


def tried(trial: Trial, sigmas: Sequence[float], watcher: Watcher) -> Iterator[ProbedSigma]:
    """Yield what the members come to at each sigma, as soon as it is known."""
    for sigma in sigmas:
        yield _at_sigma(trial, sigma, LEVEL / len(sigmas), watcher)


def _refuse(sigmas: Sequence[float] | None, members: int) -> None:
    """Raise RecipeError for what no probe can be made of."""
    given = () if sigmas is None else tuple(sigmas)
    if sigmas is not None and not 1 <= len(given) <= MOST_SIGMAS:
        raise RecipeError(
            f"--sigmas has {len(given)} numbers, expected 1 to {MOST_SIGMAS}",
            hint="for example --sigmas 0.001,0.003,0.01",
        )
    for sigma in given:
        if not (math.isfinite(sigma) and sigma > 0):
            raise RecipeError(
                f"--sigmas has {sigma:g}, expected numbers above 0",
                hint="for example --sigmas 0.001,0.003,0.01",
            )
    for one, other in pairwise(given):
        if other <= one:
            raise RecipeError(
                f"--sigmas has {other:g} after {one:g}, expected each larger than the one before",
                hint=f"--sigmas {','.join(f'{sigma:g}' for sigma in sorted({*given}))}",
            )
    if members < FEWEST_MEMBERS:
        raise RecipeError(
            f"--members is {members}, expected at least {FEWEST_MEMBERS}: fewer have no ranking",
            hint="30 tell more",
        )


def _checked_rows(recipe: Recipe, rows: int | None) -> int:
    """Return the rows of a probe; RecipeError where they are too few, or more than half of those
    there are."""
    train = len(task_and_rows(recipe.task)[1].train)
    if rows is None:
        wanted = min(MOST_ROWS, recipe.task.rows_per_step or ROWS)
        rows = max(FEWEST_ROWS, min(wanted, train // 2))
    if rows < FEWEST_ROWS:
        raise RecipeError(
            f"--rows is {rows}, expected at least {FEWEST_ROWS}: they are compared in two halves",
            hint=f"{ROWS} tell more",
        )
    if 2 * rows > train:
        most = train // 2
        enough = most >= FEWEST_ROWS
        raise RecipeError(
            f"a probe of {rows} rows needs as many fresh ones, {2 * rows} to tune on; there are "
            f"{train}",
            hint=f"--rows {most}, or more rows by --set task.train" if enough else "add rows",
        )
    return rows


def _begin(recipe: Recipe, members: int, rows: int, watcher: Watcher) -> Trial:
    """Load the model and score the base."""
    watcher.phase(f"loading {recipe.model.id}")
    # So that batches have room for the members and rows of the probe, not for those of a step.
    sizes = {"search.population": members, "search.antithetic": False, "task.rows_per_step": rows}
    session = open_session(with_settings(recipe, sizes))
    fit_threads(session, watcher)
    fit_batch([session], watcher)
    train, seed = session.train, session.recipe.search.seed
    sample, fresh = (
        [train[row] for row in rows_of_step(part, len(train), rows, seed)] for part in (1, 2)
    )
    watcher.phase(f"scoring the base model on {2 * rows} rows")
    base, base_fresh = session.rollout.roll_out(sample), session.rollout.roll_out(fresh)
    refuse_overflow(session, [*base, *base_fresh])
    # Step 0: members that no step of a run has.
    return Trial(
        session=session,
        members=population(seed, 0, members, False),
        rows=sample,
        fresh=fresh,
        base=base,
        base_fresh=base_fresh,
    )


def refuse_overflow(session: Session, base: Sequence[RowResult]) -> None:
    """Raise RunError if the base model gives no finite reward."""
    if not math.isfinite(mean_reward(base)):
        raise RunError(
            f"{session.recipe.model.id} overflows in {session.base.loaded.dtype} before any noise",
            hint="--dtype float32, or bfloat16",
        )


def _at_sigma(probe: Trial, sigma: float, level: float, watcher: Watcher) -> ProbedSigma:
    """Roll out the members at a sigma, and the best of them on fresh rows."""
    session, members = probe.session, probe.members
    roll_out = partial(_tried, session, sigma, watcher)
    watcher.phase(f"sigma {sigma:g}: {len(members)} members")
    began = time.monotonic()
    results = roll_out(members, probe.rows)
    member_s = (time.monotonic() - began) / len(members)
    on_rows = [[result.reward for result in one] for one in results]
    base, base_fresh = (
        [result.reward for result in results] for results in (probe.base, probe.base_fresh)
    )
    signal = signal_of(on_rows, base, session.recipe.search.seed)
    changes = [_change([one], base) for one in on_rows]
    finite = [at for at, change in enumerate(changes) if math.isfinite(change)]
    best = sorted(finite, key=lambda at: -changes[at])[: min(_BEST, len(members) // 2)]
    again = roll_out([members[at] for at in best], probe.fresh) if best and probe.fresh else []
    again = [[result.reward for result in one] for one in again]
    kept = kept_right(results, probe.base)
    kind, why = verdict_of(signal, kept, level)
    return ProbedSigma(
        sigma=sigma,
        verdict=kind,
        why=why,
        signal=signal,
        members_again=len(again),
        changes=tuple(changes),
        chosen_change=_change([on_rows[at] for at in best], base),
        fresh_change=_change(again, base_fresh),
        kept=None if kept is None else kept[0],
        unmoved=None
        if session.batched is not None
        else unmoved_share(session.base.weights, members[0], sigma),
        member_s=member_s,
    )


def _tried(
    session: Session,
    sigma: float,
    watcher: Watcher,
    members: Sequence[Member],
    rows: Sequence[EncodedRow],
) -> list[list[RowResult]]:
    """Return what members at a sigma make of rows."""
    recipe = with_settings(session.recipe, {"search.sigma": sigma})
    session = replace(session, recipe=recipe, anchor_kl=None)  # rewards alone are looked at

    def done(count: int) -> None:
        watcher.progress(f"sigma {sigma:g}, members", count, len(members))

    laps = Laps(session.base.loaded.device)
    return Population(session).roll_out(members, rows, done, laps)


def verdict_of(
    signal: Signal, kept: tuple[float, float] | None, level: float = LEVEL
) -> tuple[Kind, str]:
    """Return the verdict of a sigma, and why; `kept` of `kept_right`."""
    if kept is not None and kept[0] + 2 * kept[1] < KEPT:
        return "too large", f"members answer {kept[0]:.0%} of the rows right that the base does"
    kind = signal.kind(level)
    return kind, _why(kind, signal)


def _change(rewards: Sequence[Sequence[float]], base: Sequence[float]) -> float:
    """Return the mean change of some members' rewards, row by row; NaN of none."""
    changes = [new - old for one in rewards for new, old in zip(one, base, strict=True)]
    return math.fsum(changes) / len(changes) if changes else math.nan


def _why(kind: Kind, signal: Signal) -> str:
    if signal.overflowed:
        return f"{signal.overflowed} members overflow"
    match kind:
        case "too large":
            return f"the mean falls by {-signal.change:.3g}, members differ by {signal.spread:.3g}"
        case "mute":
            return f"members have the same reward on {1 - signal.telling:.0%} of the rows"
        case "no signal":
            return f"chance alone sets members apart as much in {signal.p_value:.0%} of cases"
    return (
        f"{max(0.0, signal.reliability):.0%} of what ranks the members is signal, the rest chance"
    )
