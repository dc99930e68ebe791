"""How long a run will take: one real member on real rows, timed."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from esft.engine.members import Member, population
from esft.engine.perturb import visiting
from esft.models.device import finish_queue
from esft.recipe.settings import Recipe
from esft.rollout.encode import EncodedRow
from esft.rollout.evaluate import PART
from esft.rollout.results import RowResult
from esft.tuning.lead import deal
from esft.tuning.population import Laps, Population, groups
from esft.tuning.session import Session, fit_batch, open_session, refuse_chain, rows_of_step
from esft.tuning.tasks import EvalTask
from esft.tuning.threads import fit_threads
from esft.tuning.watcher import Watcher

_RAPL = Path("/sys/class/powercap")
_SAMPLE = 64
"""Rows of a task whose time tells that of all."""
_MEMBERS = 6
"""Members of an update whose time, less that of one, tells what each adds."""


EXCHANGE_S = 0.03
"""What ranks take to hand each other members, rewards and coefficients of a step: measured, two to
four of them on one machine."""
_TRIES, _ENOUGH_S = 5, 10.0
"""Members that are timed, until that took so many seconds."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """What a run will take, in seconds; `member` to `evaluation` are measured, from parts."""

    member: float  # perturb, roll out, grade; on one rank, as are the next three
    engine: float  # of that, not the rollout
    update: float  # of a whole population
    evaluation: float  # of target and prior tasks
    step: float
    run: float  # with its evaluations; without loading, snapshots and saving
    ranks: int  # alike, that share members and rows
    share: int  # members of the rank that has the most
    tokens_a_second: float  # read and written by a member
    joules: float | None  # of the run; None where the device does not tell


def calibrate(recipe: Recipe, watcher: Watcher, ranks: int = 1) -> Times:
    """Load a model, time what a run does with it, and say how long all of it takes, by so many
    processes of a torchrun, each on a device like this one.

    No run is begun. EsftError as `open_session`.
    """
    refuse_chain(recipe, "--calibrate")
    watcher.phase(f"loading {recipe.model.id}")
    session = open_session(recipe)
    fit_threads(session, watcher)
    fit_batch([session], watcher)
    search = session.recipe.search
    per_step, total = session.recipe.task.rows_per_step, len(session.train)
    numbers = rows_of_step(1, total, per_step or total, search.seed)
    rows = [session.train[number] for number in numbers]
    members = population(search.seed, 1, search.population, search.antithetic)
    watcher.phase("timing a member, an update and an evaluation")
    roll_out(session, members[:1], rows[: session.rollout.batches.size])  # the first takes longer
    joules = energy_since(session.base.loaded.device)
    alone, timed_s, results = _a_member(session, members[1:], rows)
    spent = joules()
    one, another = (visit_seconds(session, members, count) for count in (1, 2))
    engine = max(0.0, another - one)  # what going back costs is shared by all of a population
    member = alone - one + engine
    evaluation = sum(evaluation_seconds(session, task) for task in session.tasks)
    update = update_seconds(session, members)
    share = largest_share(map(len, groups(members, session.members_together)), ranks)
    step = share * member + update + (EXCHANGE_S if ranks > 1 else 0.0)
    run = search.steps * step + _evaluations(session, ranks) * evaluation
    return Times(
        member=member,
        engine=engine,
        update=update,
        evaluation=evaluation,
        step=step,
        run=run,
        ranks=ranks,
        share=share,
        tokens_a_second=_tokens(session, rows, results) / (alone - one),
        joules=None if spent is None else ranks * spent / timed_s * run,
    )


def largest_share(sizes: Iterable[int], ranks: int) -> int:
    """Return how much the rank has that has the most, of parts of these sizes that are dealt."""
    parts = list(sizes)
    return max(sum(parts[number] for number in share) for share in deal(parts, [1.0] * ranks))


def _evaluations(session: Session, ranks: int) -> float:
    """Return how many times a run takes as long as one process does to evaluate all its tasks."""
    every, steps = session.recipe.prior.every, session.recipe.search.steps
    part, busiest, whole = max(PART, session.rollout.batches.size), 0, 0
    for rows in (len(task.encoded) for task in session.tasks):
        busiest += largest_share((min(part, rows - at) for at in range(0, rows, part)), ranks)
        whole += rows
    return (2 + (0 if every is None else (steps - 1) // every)) * busiest / whole


def energy_since(device: torch.device, rapl: Path = _RAPL) -> Callable[[], float | None]:
    """Return what tells the joules that a device took from now on; None where it does not tell.

    Of a GPU by NVML, if it is installed; of a CPU the counters of all its packages.
    """
    if device.type == "cuda":
        with suppress(Exception):  # no package, no driver, no counter: whatever NVML raises
            import pynvml

            pynvml.nvmlInit()
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # millijoules
            return lambda: (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1e3
        return lambda: None
    began: dict[Path, int] = {}
    with suppress(OSError, ValueError):  # not there, or not for every user to read
        began = {file: int(file.read_text()) for file in rapl.glob("*-rapl:[0-9]/energy_uj")}

    def since() -> float | None:
        with suppress(OSError, ValueError):
            spans = {file: int((file.parent / "max_energy_range_uj").read_text()) for file in began}
            took = [(int(file.read_text()) - began[file]) % spans[file] for file in began]
            return sum(took) / 1e6 if took else None
        return None

    return since


def timed(session: Session, work: Callable[[], object]) -> tuple[float, object]:
    began = time.monotonic()
    result = work()
    finish_queue(session.base.loaded.device)
    return time.monotonic() - began, result


def roll_out(
    session: Session, members: Sequence[Member], rows: Sequence[EncodedRow]
) -> list[list[RowResult]]:
    """Perturb, roll out and revert, as the loop does."""
    laps = Laps(session.base.loaded.device)
    return Population(session).roll_out(members, rows, lambda done: None, laps)


def _a_member(
    session: Session, members: Sequence[Member], rows: Sequence[EncodedRow]
) -> tuple[float, float, list[RowResult]]:
    """Return how long a member takes, the median of a few where they are short, how long all of
    them took, and what the last made of the rows."""
    each, took = [], 0.0
    for group in groups(members, session.members_together)[:_TRIES]:
        some = [members[at] for at in group]
        seconds, results = timed(session, partial(roll_out, session, some, rows))
        each.append(seconds / len(group))
        took += seconds
        if took > _ENOUGH_S:
            break
    return statistics.median(each), took, results[-1]


def visit_seconds(session: Session, members: Sequence[Member], count: int) -> float:
    """Return how long the weights take to hold some members and to come back: none where members
    share a batch."""
    if session.batched is not None:
        return 0.0
    base, sigma = session.base, session.recipe.search.sigma

    def visits() -> None:
        with visiting(base.weights, sigma, base.drift) as visit:
            for member in members[:count]:
                visit(member)

    return min(timed(session, visits)[0] for _ in range(3))


def update_seconds(session: Session, members: Sequence[Member]) -> float:
    """Return how long the update of a population takes."""
    search, anchor, drift = session.recipe.search, session.recipe.anchor, session.base.drift

    def update(count: int) -> float:
        signs = [1.0 if at % 3 else -0.5 for at in range(count)]  # no pair of them cancels
        rest = search.alpha, anchor.awd, anchor.norm, search.sigma, anchor.follows
        return timed(session, lambda: drift.step(list(members[:count]), signs, *rest))[0]

    few, some = min(2, len(members)), min(_MEMBERS, len(members))
    update(few)  # the first takes longer
    one, more = update(few), update(some)
    each = max(0.0, more - one) / max(1, some - few)
    return one + each * (len(members) - few)


def evaluation_seconds(session: Session, task: EvalTask) -> float:
    """Return how long the evaluation of all rows takes, from that of some."""
    encoded = task.encoded
    some = encoded[:: -(-len(encoded) // _SAMPLE)]
    return timed(session, lambda: task.rollout.evaluate(some))[0] * len(encoded) / len(some)


def _tokens(session: Session, rows: Sequence[EncodedRow], results: Sequence[RowResult]) -> int:
    """Return the tokens of a member's sequences: as given, and as answered."""
    given = [one for row in rows for one in (row.options or row.references)]
    read = sum(len(one.tokens) + 1 for one in given)
    read += sum(len(prompt) for row in rows for prompt in row.prompts)
    if session.rollout.scoring != "generate":
        return read
    tokenize = session.rollout.tokenizer
    answers = [text for result in results for text in result.answers]
    return read + sum(
        len(tokenize(text, add_special_tokens=False)["input_ids"]) for text in answers
    )
