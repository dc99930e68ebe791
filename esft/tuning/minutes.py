"""Which settings let a run end within so many minutes: from members that were timed and tried."""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from esft.engine.members import population
from esft.errors import RecipeError
from esft.recipe.settings import Recipe, Search, with_settings
from esft.rollout.encode import EncodedRow
from esft.rollout.results import RowResult, mean_reward
from esft.runs.steps import ProbeRecord
from esft.tuning.calibrate import roll_out, timed, update_seconds, visit_seconds
from esft.tuning.probe import FEWEST_MEMBERS, Trial
from esft.tuning.recommend import REACH, reach_by, reach_of, rounded
from esft.tuning.session import Opened, Session, fit_batch, open_session, refuse_chain, rows_of_step
from esft.tuning.sigma import NEAR, chosen_by, trial_of
from esft.tuning.tasks import EvalTask, sequences_of
from esft.tuning.threads import fit_threads
from esft.tuning.watcher import Watcher

KEPT = 0.1
"""Share of the time that is not planned for: snapshots, saving, a machine that slows down."""
EVALUATED = 0.25
"""Share of the time that evaluations may take; where they would take more they get fewer rows."""
FEWEST_ROWS = 20
"""Rows of an evaluation that are left at least."""
TRIED = 0.15
"""Share of the time in which members are timed and tried."""
FEWEST_TRIED, MOST_TRIED = 4, 64
"""Rows that they are tried on, as the time allows."""
LEAST = 0.2
"""Share of what a row takes on the average that another of the batch takes at least: measured where
decoding reads the weights once for all rows, 20 rows in 6.5 s and 40 in 7.5 s, one in 1.7 s."""
ROWS = (128, 96, 64, 48, 32, 24, 16, 12, 8)
"""Rows a step that are considered, beside all that there are."""
MEMBERS, MANY_MEMBERS = 240, 900
"""Members that a run should have: 12 in each of 20 steps, the least that small models learned with
here; and with more than 32 rows a step the published 30, in 30 steps."""
TELLING = 16
"""Rows whose chance is as large as what sets members apart: so many tell half of what can be told.
By calculation, for answers right or wrong and members whose rewards differ by 0.1."""
MORE = "more minutes, shorter answers (--set task.max_new_tokens=...) or a smaller model"
POPULATION = 8, 30
STEPS = 5
"""A run of fewer is refused."""


RENEWED = frozenset(
    (
        *("search.steps", "search.population", "search.alpha"),
        *("task.rows_per_step", "task.holdout", "prior.rows"),
    )
)
"""What is chosen also where a recipe has it."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Settings that were chosen, and what they lead to."""

    changes: dict[str, object]  # "table.key" to value
    seconds: float  # expected of all steps
    because: tuple[str, ...]  # a line each
    probed: ProbeRecord | None  # by what sigma was chosen; None where it was given
    opened: Opened


@dataclass(frozen=True, kw_only=True)
class Price:
    """Seconds that the parts of a run take."""

    batch: int  # rows that a forward takes at once
    call: float  # of a member's rollout, for each batch, whatever its rows
    row: float  # of that, for each row
    member: float  # beside its rollout: its visit, and its part of the update
    evaluation: float  # of target and prior tasks
    shared: bool = False  # batches by members, so that all are full

    def rollout(self, rows: int) -> float:
        """Return what a rollout of so many rows takes."""
        calls = rows / self.batch
        return (calls if self.shared else math.ceil(calls)) * self.call + rows * self.row


def fit_minutes(
    recipe: Recipe,
    minutes: float,
    typed: Collection[str],
    watcher: Watcher,
    named: Collection[str] = (),
) -> Fitted:
    """Choose what was not typed so that a run of `recipe` ends within `minutes`.

    Loads the model, times members on rows of the task, and takes sigma by what they score at some
    (`recommend.picked`).

    Args:
        typed: settings that stay as they are in `recipe`, as "table.key".
        named: those that a recipe file has, which stay too, but for RENEWED.

    Raises:
        RecipeError: if fewer than STEPS steps fit. EsftError as `open_session`.
    """
    refuse_chain(recipe, "--minutes")
    began, given = time.monotonic(), {*typed, *(set(named) - RENEWED)}
    watcher.phase(f"loading {recipe.model.id}")
    session = open_session(recipe)
    fit_threads(session, watcher)
    fit_batch([session], watcher)
    watcher.phase("trying members on rows of the task, to see how long they take")
    chosen, price, because, probed = _try_members(session, TRIED * 60 * minutes, given, watcher)
    spent = time.monotonic() - began
    left = 60 * minutes * (1 - KEPT) - spent
    changes = chosen | shared_out(session.recipe, price, left, given)
    if changes.get("search.steps", STEPS) < STEPS:
        raise _too_short(minutes, spent, recipe, changes, price)
    fitted, reach = with_settings(session.recipe, changes).search, REACH
    if probed is not None:
        reach = reach_by({one.sigma: one.verdict for one in probed.sigmas}, fitted.sigma)
    if {"search.alpha", "search.sigma"} <= {*named}:
        reach = reach_of(recipe.search, recipe.model.weights)
    if "search.alpha" not in given:
        changes["search.alpha"] = rounded(
            fitted.alpha * reach / reach_of(fitted, recipe.model.weights)
        )
    session.base.drift.give_back()  # members and an update were tried
    members = fitted.steps * fitted.population
    if members < MEMBERS:
        because = (*because, f"{members} members in all are few, {MEMBERS} tell more: {MORE}")
    rows = with_settings(session.recipe, changes).task.rows_per_step or len(session.train)
    return Fitted(
        changes=changes,
        seconds=members * (price.rollout(rows) + price.member),
        because=because,
        probed=probed,
        opened=Opened(session.base.loaded, session.room),
    )


def _too_short(
    minutes: float, spent: float, recipe: Recipe, changes: Mapping[str, object], price: Price
) -> RecipeError:
    """Return that fewer than STEPS steps fit, after so many seconds were spent, and what would."""
    members = STEPS * changes.get("search.population", recipe.search.population)
    one = price.rollout(changes.get("task.rows_per_step", ROWS[-1])) + price.member
    needed = (spent + members * one) / (1 - KEPT) / (1 - EVALUATED)
    return RecipeError(
        f"--minutes {minutes:g} leaves time for {changes['search.steps']} steps, expected at least "
        f"{STEPS}: an evaluation takes {price.evaluation:.0f} s, a member {one:.1f} s",
        hint=f"--minutes {math.ceil(needed / 60)} would do; or {MORE}",
    )


def _try_members(
    session: Session, seconds: float, given: Collection[str], watcher: Watcher
) -> tuple[dict[str, object], Price, tuple[str, ...], ProbeRecord | None]:
    """Return the settings that a few members tell, what a run's parts take, why, and what was
    tried; about `seconds` are spent on it, or fewer."""
    recipe, train = session.recipe, session.train
    sample = [train[row] for row in rows_of_step(1, len(train), len(train), recipe.search.seed)]
    member = population(recipe.search.seed, 0, 1, False)
    roll_out(session, member, sample[:1])  # the first takes longer
    few = sample[:FEWEST_TRIED]
    first, rest = (
        timed(session, lambda rows=rows: session.rollout.roll_out(rows))[0]
        for rows in (few[:1], few)
    )
    row = max(LEAST * rest, rest - first) / len(few)
    # The base, members at each sigma, two that are timed, and an evaluation of each task.
    rollouts = 3 + FEWEST_MEMBERS * len(NEAR) + len(session.tasks)
    size = int((seconds / rollouts - first) / row)
    size = max(FEWEST_TRIED, min(MOST_TRIED, size))
    sample = sample[:size]
    base = session.rollout.roll_out(sample)
    changes: dict[str, object] = {"search.seed": recipe.search.seed}
    if "task.max_new_tokens" not in given and (tokens := _tokens(session, base)) is not None:
        changes["task.max_new_tokens"] = session.rollout.max_new_tokens = tokens
    trial = trial_of(session, FEWEST_MEMBERS, sample, base)
    sigma, why, record = _sigma(trial, watcher, fixed="search.sigma" in given)
    changes["search.sigma"] = sigma
    one = replace(session, recipe=with_settings(recipe, {"search.sigma": sigma}))
    took, results = timed(session, lambda: roll_out(one, member, sample))
    seen = f"reward {mean_reward(base):.3f} before, {mean_reward(results[0]):.3f} of a member"
    if session.base.loaded.device.type == "cpu":
        changes["run.threads"] = torch.get_num_threads()
    changes = {key: value for key, value in changes.items() if key not in given}
    return changes, _price(session, sample, took), (why, seen), record


def _tokens(session: Session, base: Sequence[RowResult]) -> int | None:
    """Return a cap that cuts no answer which the base model ends below the cap there is; None where
    there is no such cap."""
    rollout = session.rollout
    if rollout.scoring != "generate":
        return None
    texts = [text for result in base for text in result.answers]
    lengths = [
        len(rollout.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts
    ]
    cap = 8 * math.ceil(1.25 * max(lengths) / 8)
    return cap if cap < rollout.max_new_tokens else None


def _sigma(trial: Trial, watcher: Watcher, *, fixed: bool) -> tuple[float, str, ProbeRecord | None]:
    """Return sigma, why it is what it is, and what was tried to choose it."""
    if fixed:
        sigma = trial.session.recipe.search.sigma
        return sigma, f"sigma {sigma:g}: as it was given", None
    return chosen_by(trial, watcher)


def _price(session: Session, sample: Sequence[EncodedRow], took: float) -> Price:
    """Time what a run does; `took` is what a member needed for the sample."""
    members = population(session.recipe.search.seed, 0, POPULATION[1], False)
    one, another = (visit_seconds(session, members, count) for count in (1, 2))
    few = sample[: max(1, len(sample) // 4)]
    some, _ = timed(session, lambda: roll_out(session, members[:1], few))
    took, some = (max(1e-6, seconds - one) for seconds in (took, some))
    row = (took - some) / max(1, len(sample) - len(few))
    row = min(max(row, LEAST * took / len(sample)), took / len(sample))
    sequences = max(map(sequences_of, sample))
    price = Price(
        batch=max(1, session.rollout.batches.size // sequences),
        call=took - len(sample) * row,
        row=row,
        member=max(0.0, another - one) + update_seconds(session, members) / len(members),
        evaluation=0.0,
        shared=session.batched is not None,
    )

    def evaluation(task: EvalTask) -> float:
        some = task.encoded[:: -(-len(task.encoded) // len(sample))]
        took, _ = timed(session, lambda: task.rollout.evaluate(some))
        return took * price.rollout(len(task.encoded)) / price.rollout(len(some))

    return replace(price, evaluation=math.fsum(map(evaluation, session.tasks)))


def shared_out(
    recipe: Recipe, price: Price, seconds: float, given: Collection[str]
) -> dict[str, object]:
    """Return steps, population and rows that take about `seconds`; those `given` stay.

    What evaluations leave of the time goes to members: of as many rows as leave enough of them (see
    MEMBERS), else of those that tell most in the time (see TELLING), or nearly; and half as many of
    them a step as there are steps, within POPULATION.
    """
    search, every, train = recipe.search, recipe.prior.every, recipe.task.train
    sizes = [train, *(size for size in ROWS if size < train)]
    if "task.rows_per_step" in given and recipe.task.rows_per_step is not None:
        sizes = [recipe.task.rows_per_step]
    fewest = STEPS * (search.population if "search.population" in given else POPULATION[0])
    evaluations = 2
    while True:
        whole = price.evaluation * evaluations
        share = min(1.0, max(0.0, EVALUATED * seconds / whole))
        left = seconds - share * whole
        counts = {size: max(0, int(left / (price.rollout(size) + price.member))) for size in sizes}
        able = [size for size in sizes if counts[size] >= fewest] or sizes[-1:]
        told = {size: counts[size] * size / (size + TELLING) for size in able}
        enough = [size for size in able if counts[size] >= _enough(size)]
        rows = (enough or [size for size in able if told[size] >= 0.9 * max(told.values())])[0]
        size, steps = _population_and_steps(search, counts[rows], given)
        if every is None or 2 + (steps - 1) // every <= evaluations:
            break
        evaluations += 1  # more of them leave fewer steps
    chosen = {"task.rows_per_step": rows, "search.population": size, "search.steps": steps}
    if share < 1:
        chosen["task.holdout"] = max(FEWEST_ROWS, int(share * recipe.task.holdout))
        if any(spec.rows is None for spec in recipe.prior.specs):
            chosen["prior.rows"] = max(FEWEST_ROWS, int(share * recipe.prior.rows))
    return {key: value for key, value in chosen.items() if key not in given}


def _enough(rows: int) -> int:
    return MEMBERS if rows <= 32 else MANY_MEMBERS


def _population_and_steps(search: Search, members: int, given: Collection[str]) -> tuple[int, int]:
    """Return what so many members are shared out to, an even population within POPULATION."""
    if "search.population" in given:
        steps = members // search.population
        return search.population, search.steps if "search.steps" in given else steps
    wanted = math.sqrt(members / 2)
    if "search.steps" in given:
        wanted = members / search.steps
    fewest, most = POPULATION
    size = 2 * max(fewest // 2, min(most // 2, int(wanted / 2)))
    return size, search.steps if "search.steps" in given else members // size
