"""Which settings let a run end within so many minutes: from members that were timed and tried."""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from esft.engine.measures import root_mean_square
from esft.engine.members import Member, population
from esft.errors import RecipeError
from esft.recipe.settings import Recipe, Search, with_settings
from esft.rollout.encode import EncodedRow
from esft.rollout.results import RowResult, mean_reward
from esft.tuning.calibrate import roll_out, timed, update_seconds, visit_seconds
from esft.tuning.plan import moving_sigma
from esft.tuning.session import Opened, Session, fit_batch, open_session, rows_of_step
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
SIGMA = 1 / 30
"""Of the root mean square of the weights: SmolLM2-135M, 0.18, learned with a sigma of 0.006."""
REACH = 2.0
"""How far all steps together would walk at random, in sigma: alpha * sqrt(steps / N) / sigma, which
is 2 at the published settings. That of a recipe stays."""
TRIES = 4


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

    Loads the model, times members on rows of the task, and looks at what they score: sigma is
    doubled while they change no answer, and halved while they lose half of the reward.

    Args:
        typed: settings that stay as they are in `recipe`, as "table.key".
        named: those that a recipe file has, which stay too, but for RENEWED.

    Raises:
        RecipeError: if fewer than STEPS steps fit. EsftError as `open_session`.
    """
    began, given = time.monotonic(), {*typed, *(set(named) - RENEWED)}
    watcher.phase(f"loading {recipe.model.id}")
    session = open_session(recipe)
    fit_threads(session, watcher)
    fit_batch(session, watcher)
    watcher.phase("trying members on rows of the task, to see how long they take")
    tried, price, because = _try_members(session, TRIED * 60 * minutes, given)
    spent = time.monotonic() - began
    left = 60 * minutes * (1 - KEPT) - spent
    changes = tried | shared_out(session.recipe, price, left, given)
    if changes.get("search.steps", STEPS) < STEPS:
        raise _too_short(minutes, spent, recipe, changes, price)
    fitted, reach = with_settings(session.recipe, changes).search, REACH
    if {"search.alpha", "search.sigma"} <= {*named}:
        reach = reach_of(recipe.search)
    if "search.alpha" not in given:
        changes["search.alpha"] = rounded(fitted.alpha * reach / reach_of(fitted))
    session.base.drift.give_back()  # members and an update were tried
    members = fitted.steps * fitted.population
    if members < MEMBERS:
        because = (*because, f"{members} members in all are few, {MEMBERS} tell more: {MORE}")
    rows = with_settings(session.recipe, changes).task.rows_per_step or len(session.train)
    return Fitted(
        changes=changes,
        seconds=members * (price.rollout(rows) + price.member),
        because=because,
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


def reach_of(search: Search) -> float:
    """Return how far a random walk of all steps goes, in sigma; see REACH."""
    walked = search.alpha * math.sqrt(search.steps)
    if search.anneal is not None:
        alphas = [search.at(step)[1] for step in range(1, search.steps + 1)]
        walked = math.sqrt(math.fsum(alpha * alpha for alpha in alphas))
    return walked / math.sqrt(search.population) / search.sigma


def _try_members(
    session: Session, seconds: float, given: Collection[str]
) -> tuple[dict[str, object], Price, tuple[str, ...]]:
    """Return the settings that a few members tell, what a run's parts take, and why; about
    `seconds` are spent on it, or fewer."""
    recipe, train = session.recipe, session.train
    sample = [train[row] for row in rows_of_step(1, len(train), len(train), recipe.search.seed)]
    roll_out(session, _two(session)[:1], sample[:1])  # the first takes longer
    few = sample[:FEWEST_TRIED]
    first, rest = (
        timed(session, lambda rows=rows: session.rollout.roll_out(rows))[0]
        for rows in (few[:1], few)
    )
    row = max(LEAST * rest, rest - first) / len(few)
    # The base, two members a try and one on fewer rows, and an evaluation of each task.
    rollouts = 2 + 2 * TRIES + len(session.tasks)
    size = int((seconds / rollouts - first) / row)
    size = max(FEWEST_TRIED, min(MOST_TRIED, size))
    sample = sample[:size]
    base = session.rollout.roll_out(sample)
    changes: dict[str, object] = {"search.seed": recipe.search.seed}
    if "task.max_new_tokens" not in given and (tokens := _tokens(session, base)) is not None:
        changes["task.max_new_tokens"] = session.rollout.max_new_tokens = tokens
    sigma, took, because = _sigma(session, sample, base, fixed="search.sigma" in given)
    changes["search.sigma"] = sigma
    if session.base.loaded.device.type == "cpu":
        changes["run.threads"] = torch.get_num_threads()
    changes = {key: value for key, value in changes.items() if key not in given}
    return changes, _price(session, sample, took), because


def _two(session: Session) -> list[Member]:
    return population(session.recipe.search.seed, 0, 2, False)


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


def _sigma(
    session: Session, sample: Sequence[EncodedRow], base: Sequence[RowResult], *, fixed: bool
) -> tuple[float, float, tuple[str, ...]]:
    """Return sigma, the seconds that a member took with it, and why it is what it is."""
    weights, sigma, why = session.base.weights, session.recipe.search.sigma, "as it was given"
    members = _two(session)
    if not fixed:
        sigma, why = rounded(SIGMA * root_mean_square(weights)), "a thirtieth of the weights' size"
        # Members that share a batch change no weight, so that none of their noise rounds away.
        moving = 0.0 if session.batched else moving_sigma(weights, members[0], sigma)
        if moving > sigma:
            sigma, why = moving, "smaller ones round away in the weights' dtype"
    reward = mean_reward(base)
    for _ in range(TRIES):
        tried = replace(session, recipe=with_settings(session.recipe, {"search.sigma": sigma}))
        began = time.monotonic()
        results = [roll_out(tried, [member], sample)[0] for member in members]
        took = (time.monotonic() - began) / len(members)
        scored = sum(map(mean_reward, results)) / len(results)
        if fixed:
            break
        if all(rows == list(base) for rows in results):
            sigma, why = rounded(2 * sigma), "smaller ones change no answer"
        elif not scored >= (reward / 2 if reward > 0 else 2 * reward):  # NaN is a loss, too
            sigma, why = rounded(sigma / 2), "larger ones lose half of the reward"
        else:
            break
    seen = f"reward {reward:.3f} before, {scored:.3f} with members of this sigma"
    return sigma, took, (f"sigma {sigma:g}: {why}", seen)


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


def rounded(value: float) -> float:
    """Return a number in two digits: what the printed command says is what is used."""
    return float(f"{value:.2g}")
