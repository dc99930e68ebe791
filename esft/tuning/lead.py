"""What rank 0 of a torchrun does beside its run: deals work out, and compares the weights."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

from esft.engine.journal import JournalStep
from esft.engine.journal_read import JournalRecord, lines_until
from esft.engine.members import Member, population
from esft.engine.weights import identity
from esft.errors import RunError
from esft.models.memory import peak_memory
from esft.recipe.settings import Recipe, settings_of
from esft.rollout.encode import EncodedRow
from esft.rollout.results import RowResult
from esft.runs.folder import RunFolder
from esft.runs.steps import RankShare
from esft.tuning.population import Laps, Population, groups
from esft.tuning.ranks import Ranks
from esft.tuning.run_info import facts_of, software
from esft.tuning.session import Session
from esft.tuning.tasks import EvalTask
from esft.tuning.watcher import Watcher

COMPARED = 10
"""Steps from one comparison of the ranks' weights to the next."""
_SAID = 4
"""Differences between ranks that are said."""
_RECENT = 5
"""Steps whose times tell how fast a rank is."""

Make = Callable[[Session], Population]


class Lead:
    """The beginning of a run on all ranks; does nothing where there is one process."""

    def __init__(self, ranks: Ranks | None, typed: Recipe | None = None) -> None:
        """`typed`: what every rank was asked to tune; None where a run says it."""
        self._ranks, self._typed = ranks, typed
        self._brought = False

    @property
    def local_ranks(self) -> int:
        """Ranks that share this machine's memory."""
        return 1 if self._ranks is None else self._ranks.place.local_world

    def open(self, recipe: Recipe) -> None:
        """Let every rank load what a recipe names; RunError if one has other software, or was
        asked for another recipe."""
        if self._ranks is None:
            return
        self._ranks.send("facts")
        mine = software() | typed_facts(self._typed)
        require_alike(mine, self._ranks.replies())
        self._ranks.send("open", settings=settings_of(recipe))

    def opened(self, sessions: Sequence[Session]) -> None:
        """Wait until every rank did; RunError if its model, rows or files are others."""
        if self._ranks is not None:
            require_alike(facts_of(sessions), self._ranks.replies(LOADING_S))

    def bring(self, session: Session, run: RunFolder, record: JournalRecord) -> None:
        """Let every rank go on from the last step of a journal."""
        if self._ranks is not None:
            bring(self._ranks, session, run, record)

    def population(self, session: Session, make: Make, watcher: Watcher) -> Population:
        """Return what rolls out members on all ranks, once they are all at the same step."""
        if self._ranks is None:
            return make(session)
        if not self._brought:
            self._ranks.replies(LOADING_S)
            self._brought = True
        if session.whole.stages:
            self._ranks.send("stage", number=session.stage)
            self._ranks.replies(LOADING_S)
        search, world = session.recipe.search, self._ranks.place.world
        members = population(search.seed, 1, search.population, search.antithetic)
        if (count := len(groups(members, session.members_together))) < world:
            watcher.notice(
                f"{world} ranks share {count} groups of members a step, so that {world - count} "
                "have nothing to do; more members (--population) or, where their noise is of low "
                "rank, a smaller --set task.batch make more groups"
            )
        return Spread(session, make(session), self._ranks)


class Spread(Population):
    """Rolls out groups of members on all ranks, each on its own copy of the model."""

    def __init__(self, session: Session, own: Population, ranks: Ranks) -> None:
        super().__init__(session)
        self._own, self._ranks = own, ranks
        self._numbers = {id(row): number for number, row in enumerate(session.train)}
        self._speeds = [deque[float](maxlen=_RECENT) for _ in range(ranks.place.world)]
        self._warm = False
        self._compared = session.base.drift.steps

    def roll_out(
        self,
        members: Sequence[Member],
        rows: Sequence[EncodedRow],
        on_members: Callable[[int], None],
        laps: Laps,
    ) -> list[list[RowResult]]:
        """Return what each member made of `rows`, as one process would; see `Population`."""
        whole = groups(members, self._session.members_together)
        shares = deal([len(group) for group in whole], self._seconds_a_member())
        dealt = [[at for number in share for at in whole[number]] for share in shares]
        own = [members[at] for at in dealt[0]]
        self._send(
            "members",
            rows=[self._numbers[id(row)] for row in rows],
            members=[[(members[at].seed, members[at].sign) for at in share] for share in dealt],
        )

        def tell(done: int) -> None:
            on_members(done * len(members) // len(own))

        began = time.monotonic()
        with self._ranks.heeding():
            results = [self._own.roll_out(own, rows, tell, laps)]
        kls = [self._own.kls]
        took, memory = [time.monotonic() - began], [peak_memory(self._session.base.loaded.device)]
        for reply in self._ranks.replies(took[0]):
            results.append([results_of(one) for one in reply["results"]])
            kls.append(reply["kls"])
            took.append(reply["seconds"])
            memory.append(reply["peak_memory"])
            self._halve(reply["batch"])
        laps.lap("rollout")
        if not own:
            on_members(len(members))
        self.shares = tuple(
            RankShare(members=len(share), seconds=seconds, peak_memory=peak)
            for share, seconds, peak in zip(dealt, took, memory, strict=True)
        )
        self._note_speeds()
        if self._session.member_kl is not None:
            self.kls = _in_order(dealt, kls)
        return _in_order(dealt, results)

    def score(
        self, task: EvalTask, parts: Sequence[Sequence[EncodedRow]], at_base: bool = False
    ) -> Iterable[list[RowResult]]:
        """Return what the model makes of each part of a task's rows, as one process would."""
        made, size = score_together(
            self._ranks,
            task,
            parts,
            self._seconds_a_member(),
            number=[one is task for one in self._session.tasks].index(True),
            batch=self._session.rollout.batches.size,
            at_base=at_base,
        )
        self._halve(size)
        return made

    @contextmanager
    def stepping(self, line: JournalStep) -> Iterator[None]:
        """Let all ranks make the step of a line of the journal, while it is made here."""
        began = time.monotonic()
        self._send(
            "step",
            step=line.step,
            coefficients=line.coefficients,
            own=dict(line.own),
        )
        yield
        self._ranks.replies(time.monotonic() - began)
        if line.step % COMPARED == 0:
            self._compare(line.step)

    def go_back(self, run: RunFolder, record: JournalRecord) -> None:
        """Let all ranks go to the last step of a journal that took steps back."""
        bring(self._ranks, self._session, run, record)
        self._ranks.replies(LOADING_S)
        self._compared = min(self._compared, record.last)

    def end(self) -> None:
        """Compare the weights of all ranks."""
        if self._compared < self._session.base.drift.steps:
            self._compare(self._session.base.drift.steps)

    def _compare(self, step: int) -> None:
        began = time.monotonic()
        self._send("identity")
        mine = identity(self._session.base.loaded.model)
        replies = self._ranks.replies(time.monotonic() - began)
        others = [str(rank) for rank, theirs in enumerate(replies, start=1) if theirs != mine]
        if others:
            raise RunError(
                f"after step {step} rank {', '.join(others)} of {self._ranks.place.world} has "
                "other weights than rank 0, expected the same; after step "
                f"{self._compared} they were the same",
                hint="a machine computes or remembers wrongly, or their devices differ; what came "
                f"before is sound: esft replay --at {self._compared} --out DIR",
            )
        self._compared = step

    def _send(self, do: str, **what: object) -> None:
        self._ranks.send(do, batch=self._session.rollout.batches.size, **what)

    def _halve(self, size: int) -> None:
        """Take the batch size of a rank whose memory ran out."""
        batches = self._session.rollout.batches
        if size < batches.size:
            batches.size = size
            batches.on_split(size)

    def _note_speeds(self) -> None:
        """Note how long each rank took; not in the first step, in which kernels are compiled."""
        if self._warm:
            known = zip(self._speeds, self.shares, self._seconds_a_member(), strict=True)
            for recent, share, before in known:
                # One that was so slow that it had nothing to do is tried again, with one group.
                recent.append(share.seconds / share.members if share.members else before / 2)
        self._warm = True

    def _seconds_a_member(self) -> list[float]:
        """Return how long each rank takes for a member, by its last steps; all alike at first."""
        return [median(recent) if recent else 1.0 for recent in self._speeds]


LOADING_S = 180.0
"""Seconds that loading may take the leader, by which a rank that hangs meanwhile is told."""


def bring(ranks: Ranks, session: Session, run: RunFolder, record: JournalRecord) -> None:
    """Ask every rank to go to the last step of a journal."""
    ranks.send(
        "bring",
        threads=run.info.threads,
        batch=session.rollout.batches.size,
        run=str(run.path.absolute()),
        journal=lines_until(record, record.last),
    )


def require_alike(mine: dict[str, str], replies: Sequence[dict[str, str]]) -> None:
    """Raise RunError if a rank, from 1 on, has other facts than this one."""
    for rank, theirs in enumerate(replies, start=1):
        names = sorted(key for key in mine | theirs if mine.get(key) != theirs.get(key))
        if names:
            others = "; ".join(
                f"{name} is {theirs.get(name, 'none')}, rank 0 has {mine.get(name, 'none')}"
                for name in names[:_SAID]
            )
            if len(names) > _SAID:
                others += f"; and {len(names) - _SAID} more"
            raise RunError(
                f"rank {rank} of {len(replies) + 1} is not as rank 0: {others}",
                hint="give all of them the same esft, libraries, recipe, rows and model",
            )


def score_together(
    ranks: Ranks,
    task: EvalTask,
    parts: Sequence[Sequence[EncodedRow]],
    seconds: Sequence[float],
    **what: object,
) -> tuple[list[list[RowResult]], int]:
    """Return what each part of a task's rows was scored, part by part, and the batch size that was
    left.

    Args:
        parts: slices of its rows.
        seconds: how slow each rank is, see `deal`.
        what: the rest of the message to the others, by which they know weights and task.
    """
    if not parts:
        return [], task.rollout.batches.size
    shares = deal([len(part) for part in parts], seconds)
    first = {id(row): number for number, row in enumerate(task.encoded)}
    spans = [(first[id(part[0])], len(part)) for part in parts]
    ranks.send("score", spans=[[spans[number] for number in share] for share in shares], **what)
    began = time.monotonic()
    with ranks.heeding():
        results = [[task.rollout.evaluate(parts[number]) for number in shares[0]]]
    sizes = [task.rollout.batches.size]
    for reply in ranks.replies(time.monotonic() - began):
        results.append([results_of(one) for one in reply["results"]])
        sizes.append(reply["batch"])
    made = {
        number: scored
        for share, some in zip(shares, results, strict=True)
        for number, scored in zip(share, some, strict=True)
    }
    return [made[number] for number in range(len(parts))], min(sizes)


def deal(sizes: Sequence[int], seconds: Sequence[float]) -> list[list[int]]:
    """Return the numbers of the groups that each rank gets, rising.

    Group by group to the rank that would be done with it first; of equal ones, the first. So ranks
    that are alike get them in turn.

    Args:
        sizes: members of each group.
        seconds: that a member takes on each rank, > 0.
    """
    shares: list[list[int]] = [[] for _ in seconds]
    busy = [0.0 for _ in seconds]
    for number, size in enumerate(sizes):
        rank = min(range(len(seconds)), key=lambda r: busy[r] + size * seconds[r])
        shares[rank].append(number)
        busy[rank] += size * seconds[rank]
    return shares


def _in_order(dealt: Sequence[Sequence[int]], made: Sequence[Sequence[Any]]) -> list[Any]:
    """Return what ranks made of the numbers that each was dealt, by number."""
    pairs = zip(dealt, made, strict=True)
    placed = {at: one for share, some in pairs for at, one in zip(share, some, strict=True)}
    return [placed[at] for at in range(len(placed))]


def results_of(rows: Sequence[dict[str, Any]]) -> list[RowResult]:
    """Return what a rank made of rows, as it came from there."""
    return [RowResult(**{**row, "answers": tuple(row["answers"])}) for row in rows]


def typed_facts(recipe: Recipe | None) -> dict[str, str]:
    """Return the settings that a rank was given, in words."""
    if recipe is None:
        return {}
    return {f"recipe {key}": repr(value) for key, value in settings_of(recipe).items()}
