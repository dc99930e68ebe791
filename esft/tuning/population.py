"""The population of a step: members and rows in, rewards out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Literal

import torch

from esft.engine.members import Member
from esft.engine.perturb import visiting
from esft.models.device import finish_queue
from esft.rollout.encode import EncodedRow
from esft.rollout.grading import one_grader
from esft.rollout.results import RowResult
from esft.runs.records import StepTimes
from esft.tuning.session import Session


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
    processes, are another class with this `roll_out`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

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
        base, sigma = self._session.base, self._session.recipe.search.sigma
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
