"""What a rank of a torchrun that does not lead does: all that rank 0 asks of it, and nothing else.

It has no run folder, shows nothing and decides nothing: it loads what rank 0 loaded, rolls out the
members that are its share, scores rows, and makes each step from the coefficients in the journal's
line, as a replay of the journal does.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from esft.engine.journal import JournalStep
from esft.engine.journal_read import JournalRecord, make_step, read_journal
from esft.engine.members import Member
from esft.engine.weights import identity
from esft.errors import ModelError
from esft.models.calling import out_of_memory
from esft.models.device import choose_device
from esft.models.memory import peak_memory
from esft.recipe.settings import Recipe
from esft.recipe.toml import load_recipe
from esft.rollout.results import RowResult
from esft.runs.folder import open_run
from esft.runs.names import is_run
from esft.tuning.lead import typed_facts
from esft.tuning.population import Laps, Population
from esft.tuning.ranks import Place, Ranks
from esft.tuning.rebuild import Source, bring_to
from esft.tuning.run_info import facts_of, software
from esft.tuning.session import Session, open_sessions
from esft.tuning.tasks import EvalTask
from esft.tuning.watcher import Watcher


class Silent(Watcher):
    """Shows nothing: rank 0 does."""


def follow(ranks: Ranks, recipe: Recipe | None) -> None:
    """Do what the leader asks until it ends.

    Args:
        recipe: what this rank was asked to tune; None where that is said by a run.

    Raises:
        EsftError: where something cannot be done here; RankError where another rank failed.
    """
    follower = _Follower(ranks.place, recipe)
    serve(
        ranks,
        follower.facts,
        follower.open,
        follower.bring,
        follower.stage,
        follower.members,
        follower.score,
        follower.step,
        follower.identity,
    )


def serve(ranks: Ranks, *answers: Callable[..., object]) -> None:
    """Answer each message of the leader by the function of its name; errors as `follow`."""
    by_name = {answer.__name__: answer for answer in answers}
    for message in ranks.messages():
        do = message.pop("do")
        try:
            with ranks.heeding():
                reply = by_name[do](**message)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise ModelError(
                f"memory ran out, outside the rollouts: {error}",
                hint="take a smaller model, --dtype bfloat16, or fewer ranks on one machine",
            ) from error
        ranks.reply(reply)


class _Follower:
    """Has a method for every message of the leader; what it returns is the reply."""

    def __init__(self, where: Place, recipe: Recipe | None) -> None:
        self._place, self._recipe = where, recipe
        self._sessions: tuple[Session, ...]
        self._session: Session
        self._record: JournalRecord
        self._population: Population

    def facts(self) -> dict[str, str]:
        """Say which software this is, and what was typed."""
        return software() | typed_facts(self._recipe)

    def open(self, settings: dict[str, object]) -> dict[str, str]:
        """Load what a recipe names; say what it is."""
        recipe = load_recipe(None, settings)
        device = device_of_rank(recipe.model.device, self._place)
        recipe = replace(recipe, model=replace(recipe.model, device=device))
        self._sessions = open_sessions(recipe)
        self._session = self._sessions[0]
        return facts_of(self._sessions)

    def bring(self, threads: int, batch: int, run: str, journal: str) -> None:
        """Bring the model to the last step of a journal, as fast as the disk at hand allows."""
        torch.set_num_threads(threads)
        self._session.rollout.batches.size = batch
        with tempfile.TemporaryDirectory(prefix="esft-rank-") as folder:
            path = Path(folder) / "journal.jsonl"
            path.write_text(journal, "ascii")
            self._record = read_journal(path)
        source = Source(record=self._record, run=None)
        if is_run(Path(run)):  # here too: then its snapshots save steps
            source = replace(source, run=open_run(Path(run)))
        if self._session.base.drift.steps > self._record.last:  # steps were taken back
            self._session.base.drift.reset()
        bring_to(self._session.base, source, self._record.last, Silent())
        self._population = Population(self._session)

    def stage(self, number: int) -> None:
        """Go to a stage of a chain."""
        self._session = self._sessions[number]
        self._population = Population(self._session)

    def members(
        self, batch: int, rows: list[int], members: list[list[tuple[int, int]]]
    ) -> dict[str, Any]:
        """Roll out this rank's members."""
        session, began = self._session, time.monotonic()
        session.rollout.batches.size = batch
        own = [Member(seed, sign) for seed, sign in members[self._place.rank]]
        encoded = [session.train[number] for number in rows]
        laps = Laps(session.base.loaded.device)
        made = self._population.roll_out(own, encoded, lambda done: None, laps)
        reply = as_reply(made, session.rollout.batches.size)
        peak = peak_memory(session.base.loaded.device)
        reply |= {"kls": self._population.kls, "peak_memory": peak}
        return reply | {"seconds": time.monotonic() - began}

    def score(
        self, batch: int, number: int, spans: list[list[tuple[int, int]]], at_base: bool
    ) -> dict[str, Any]:
        """Score this rank's parts of the rows of a task."""
        session = self._session
        session.rollout.batches.size = batch
        one = session.tasks[number]
        with session.base.drift.at_base() if at_base else nullcontext():
            return scored(one, spans[self._place.rank])

    def step(
        self,
        batch: int,
        step: int,
        coefficients: list[float],
        own: dict[str, object],
    ) -> None:
        """Make a step of the journal."""
        values = {"rewards": (), "coefficients": tuple(coefficients), "own": own}
        line = JournalStep(step=step, **values, rows_at=0, rows_hash="")
        make_step(self._session.base.drift, line, self._record.header)

    def identity(self, batch: int) -> str:
        """Say which weights these are by now."""
        return identity(self._session.base.loaded.model)


def scored(task: EvalTask, spans: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return the reply to the leader that wants rows scored: from which on, and how many."""
    made = [task.rollout.evaluate(task.encoded[first : first + count]) for first, count in spans]
    return as_reply(made, task.rollout.batches.size)


def as_reply(made: Sequence[Sequence[RowResult]], batch: int) -> dict[str, Any]:
    """Return results, and the batch size that was left, as `results_of` reads them."""
    return {"results": [[vars(row) for row in results] for results in made], "batch": batch}


def device_of_rank(device: str | None, where: Place) -> str | None:
    """Return the device of a rank: of several GPUs its own; ModelError if there is none for it."""
    if device not in (None, "cuda") or choose_device(device).type != "cuda":
        return device
    count = torch.cuda.device_count()
    if where.local_rank >= count:
        raise ModelError(
            f"there is no GPU for it: it is process {where.local_rank + 1} of its machine, which "
            f"has {count}",
            hint=f"torchrun --nproc-per-node {count}",
        )
    return f"cuda:{where.local_rank}"
