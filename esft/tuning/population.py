"""The population of a step: members and rows in, rewards out."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from itertools import accumulate, groupby
from typing import Literal

import torch

from esft.engine.journal import JournalStep
from esft.engine.members import Member
from esft.engine.perturb import visiting
from esft.models.device import finish_queue
from esft.rollout.encode import EncodedRow
from esft.rollout.grading import one_grader
from esft.rollout.results import RowResult
from esft.runs.records import RankShare, StepTimes
from esft.tuning.session import Session
from esft.tuning.tasks import EvalTask


class Laps:
    """Where the time of a step goes: every moment counts to one part of `StepTimes`.

    What was queued on `device` is waited for, so that it counts where it was asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._last = device, time.monotonic()
        self._seconds = {part.name: 0.0 for part in fields(StepTimes)}

    def lap(self, part: Literal["engine", "rollout", "grading", "other"]) -> None:
        """Count the time since the last lap to a part."""
        finish_queue(self._device)
        now = time.monotonic()
        self._seconds[part] += now - self._last
        self._last = now

    def times(self) -> StepTimes:
        """Return all of the time since the beginning; that since the last lap is of part other."""
        self.lap("other")
        return StepTimes(**self._seconds)


class Population:
    """Rolls out members one after the other, on the one model there is.

    The loop sees rewards and not how they came about: members in one batch, or on other
    processes, are another class with these methods.
    """

    shares: tuple[RankShare, ...] | None = None
    """What each rank had of the last members; None where one process has them all."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def groups(self, members: Sequence[Member]) -> list[range]:
        """Return the places of the members that are rolled out in one piece, group by group.

        Recipe and batch say which those are, and never the number of processes that share them, on
        which no result may depend: of some of the groups alone, in their order, `roll_out` makes
        the same. Here they are the two of each antithetic pair, and others alone.
        """
        sizes = [len(list(same)) for _, same in groupby(members, key=lambda member: member.seed)]
        return [range(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)]

    def roll_out(
        self,
        members: Sequence[Member],
        rows: Sequence[EncodedRow],
        on_members: Callable[[int], None],
        laps: Laps,
    ) -> list[list[RowResult]]:
        """Return what each member made of `rows`, row by row, in the members' order.

        The weights are exactly as they were at the end. `on_members` is called with the number of
        members done, each time some are. A member's last answers are graded while the next one
        decodes; no more than one member waits for its grades.
        """
        base, sigma = self._session.base, self._session.sigma
        results: list[list[RowResult]] = []
        with one_grader() as grader:
            waiting: list[Callable[[], list[RowResult]]] = []
            with visiting(base.weights, sigma, base.drift) as visit:
                for done, member in enumerate(members, start=1):
                    visit(member)
                    laps.lap("engine")
                    waiting.append(self._session.rollout.begin(rows, grader))
                    laps.lap("rollout")
                    if len(waiting) > 1:
                        results.append(waiting.pop(0)())
                        laps.lap("grading")
                    on_members(done)
            laps.lap("engine")
            results += [graded() for graded in waiting]
            laps.lap("grading")
        return results

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

    def end(self) -> None:
        """Look, after the last step, whether all is well."""
