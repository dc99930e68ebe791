"""The population of a step: members and rows in, rewards out."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import fields
from itertools import accumulate, groupby
from typing import Literal

import torch

from esft.engine.journal import JournalStep
from esft.engine.journal_read import JournalRecord
from esft.engine.members import Member
from esft.engine.perturb import visiting
from esft.models.device import finish_queue
from esft.rollout.encode import EncodedRow
from esft.rollout.grading import one_grader
from esft.rollout.results import RowResult
from esft.runs.folder import RunFolder
from esft.runs.steps import RankShare, StepTimes
from esft.tuning.session import Session
from esft.tuning.tasks import EvalTask


class Laps:
    """Where the time of a step goes: every moment counts to one part of `StepTimes`.

    What was queued on `device` is waited for, so that it counts where it was asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._last = device, time.monotonic()
        self._seconds = {part.name: 0.0 for part in fields(StepTimes)}

    def lap(self, part: Literal["engine", "rollout", "anchor", "grading", "other"]) -> None:
        """Count the time since the last lap to a part."""
        finish_queue(self._device)
        now = time.monotonic()
        self._seconds[part] += now - self._last
        self._last = now

    def times(self) -> StepTimes:
        """Return all of the time since the beginning; that since the last lap is of part other."""
        self.lap("other")
        return StepTimes(**self._seconds)


def groups(members: Sequence[Member], together: int = 1) -> list[range]:
    """Return the places of the members that are rolled out in one piece, group by group.

    The members alone say which those are, never the number of processes that share them, on which
    a result must not depend: of some of the groups, in their order, they are the same groups. Each
    has `together` members, or fewer where no more are left or the two of an antithetic pair would
    be apart; a pair at least.
    """
    sizes: list[int] = []
    for _, same in groupby(members, key=lambda member: member.seed):
        size = len(list(same))
        if sizes and sizes[-1] + size <= together:
            sizes[-1] += size
        else:
            sizes.append(size)
    ends = list(accumulate(sizes))
    return [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]


class Population:
    """Rolls out members on the one model there is: one after the other or, where their noise is of
    low rank, groups of them in the same batches, with the weights as they are.

    The loop sees rewards and not how they came about: members on other processes are another class
    with these methods.
    """

    shares: tuple[RankShare, ...] | None = None
    """What each rank had of the last members; None where one process has them all."""
    kls: list[float] | None = None
    """How far each of the last members is from the base model, in nats a token; None where nobody
    asks."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._batched = session.batched
        if self._batched is not None:
            self._rollout = session.rollout.by(self._batched)

    def roll_out(
        self,
        members: Sequence[Member],
        rows: Sequence[EncodedRow],
        on_members: Callable[[int], None],
        laps: Laps,
    ) -> list[list[RowResult]]:
        """Return what each member made of `rows`, row by row, in the members' order.

        The weights are exactly as they were at the end. `on_members` is called with the number of
        members done, each time some are. The last answers of a group, or of a member where each is
        alone, are graded while the next one decodes; no more than one waits for its grades.
        """
        results: list[RowResult] = []
        self.kls = None if self._session.member_kl is None else []
        if members:
            self._find_anchor(laps)
        # Closed, so that an error leaves the weights as they were before it is seen.
        with (
            one_grader() as grader,
            closing(self._begin_each(members, rows, grader, laps)) as begin_each,
        ):
            waiting: list[Callable[[], list[RowResult]]] = []
            done = 0
            for count, begun in begin_each:
                waiting.append(begun)
                if len(waiting) > 1:
                    results += waiting.pop(0)()
                    laps.lap("grading")
                done += count
                on_members(done)
            laps.lap("engine")
            results += [result for graded in waiting for result in graded()]
            laps.lap("grading")
        return [results[at : at + len(rows)] for at in range(0, len(results), len(rows))]

    def _find_anchor(self, laps: Laps) -> None:
        """Tell anew what members are compared with, where the anchor has moved."""
        kl, drift = self._session.member_kl, self._session.base.drift
        if kl is None or drift.anchor is None or not drift.anchor.sum_of_squares:
            return
        with drift.at_anchor():
            laps.lap("engine")
            kl.tell_anew(drift.steps + 1)
            laps.lap("anchor")

    def _begin_each(
        self,
        members: Sequence[Member],
        rows: Sequence[EncodedRow],
        grader: Executor,
        laps: Laps,
    ) -> Iterator[tuple[int, Callable[[], list[RowResult]]]]:
        """Yield how many members were rolled out, and what waits for their grades; see `begin`."""
        base, sigma = self._session.base, self._session.sigma
        step = base.drift.steps + 1
        if self._batched is None:
            with visiting(base.weights, sigma, base.drift) as visit:
                for member in members:
                    visit(member)
                    laps.lap("engine")
                    begun = self._session.rollout.begin(rows, grader)
                    laps.lap("rollout")
                    if self.kls is not None:
                        self.kls.append(self._session.member_kl.of_model(step))
                        laps.lap("anchor")
                    yield 1, begun
            return
        for group in groups(members, self._session.members_together):
            with self._batched.members([members[at] for at in group], sigma):
                laps.lap("engine")
                sequences = [row.of(at) for at in range(len(group)) for row in rows]
                begun = self._rollout.begin(sequences, grader)
                laps.lap("rollout")
                if self.kls is not None:
                    self.kls += self._session.member_kl.of_members(step, len(group))
                    laps.lap("anchor")
            yield len(group), begun

    def score(
        self, task: EvalTask, parts: Sequence[Sequence[EncodedRow]], at_base: bool = False
    ) -> Iterable[list[RowResult]]:
        """Return what the model as it is makes of each part of a task's rows, part by part.

        `at_base`: it is held at the base model, by whoever calls.
        """
        return map(task.rollout.evaluate, parts)

    def stepping(self, line: JournalStep) -> AbstractContextManager[None]:
        """Hold while the step of a line of the journal is made."""
        return nullcontext()

    def go_back(self, run: RunFolder, record: JournalRecord) -> None:
        """Go, after the model here, to the last step of a journal that took steps back."""

    def end(self) -> None:
        """Look, after the last step, whether all is well."""
