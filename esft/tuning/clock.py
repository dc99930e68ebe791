"""How long a run still takes, from what its members, steps and evaluations took so far, and why."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from esft.recipe.settings import Recipe

_TIMED = 3
"""Members before anything is said, not counting the first: that one compiles and fills caches."""
_RECENT = 64
"""Members looked back on: what else the machine does may have changed since."""
_LONG = 3600.0
"""Seconds from which on a run is said to be long."""
_SHORT = 5.0
"""Seconds of a step that nobody minds."""
_BUSY = 0.6
"""Seconds of processor time a second below which other programs hold a run up: one thread of it
always has something to do."""


@dataclass(frozen=True)
class Left:
    """Seconds that are left."""

    step: float
    """Of the step in hand."""
    run: float
    """With the evaluations that are still to come."""


class Clock:
    """Times a run from its first step on. A slow member changes little: medians are taken."""

    def __init__(self, recipe: Recipe, a_noise: float, later: Sequence[Recipe] = ()) -> None:
        """`a_noise`: seconds an update takes for a member, by which the first is estimated;
        `later`: the stages of a chain behind this one, taken to cost as much for each row."""
        self._search, self._every, self._later = recipe.search, recipe.prior.every, later
        self._rows = _rows_a_step(recipe)
        self._members: deque[float] = deque(maxlen=_RECENT)
        self._update = a_noise * recipe.search.population
        self._evaluation = 0.0
        self._warm = False
        self._done, self._last = 0, time.monotonic()

    def begin_step(self) -> None:
        """A step begins: what came before counts to none of its members."""
        self._done, self._last = 0, time.monotonic()

    def members(self, done: int) -> None:
        """So many members of the step are done."""
        now, some = time.monotonic(), done - self._done
        if self._warm:
            self._members.extend([(now - self._last) / some] * some)
        self._warm, self._done, self._last = True, done, now

    def end_step(self) -> None:
        """The update is made, and what belongs to it."""
        self._update, self._done = time.monotonic() - self._last, 0

    def evaluated(self, seconds: float) -> None:
        """Target and prior tasks were evaluated; less time than before, as it was kept, is none."""
        self._evaluation = max(self._evaluation, seconds)

    def left(self, step: int) -> Left | None:
        """Return how long `step`, the one in hand, and the run still take; None where too few
        members tell."""
        if len(self._members) < _TIMED:
            return None
        a_member, size = median(self._members), self._search.population
        in_hand = (size - self._done) * a_member + self._update
        steps = self._search.steps - step
        evaluations = 1  # of the last step
        if self._every is not None and steps > 0:
            evaluations += (self._search.steps - 1) // self._every - (step - 1) // self._every
        whole = in_hand + steps * (size * a_member + self._update)
        for stage in self._later:
            members = stage.search.population * _rows_a_step(stage) / self._rows
            whole += stage.search.steps * (members * a_member + self._update)
            evaluations += 1
            if self._every is not None:
                evaluations += (stage.search.steps - 1) // self._every
        return Left(in_hand, whole + evaluations * self._evaluation)


def _rows_a_step(recipe: Recipe) -> int:
    return recipe.task.rows_per_step or recipe.task.train


def long_run(seconds: float) -> str | None:
    """Return what to say of a run that will take so long; None where it is short enough."""
    if seconds < _LONG:
        return None
    return (
        f"this run will take about {seconds / 3600:.1f} hours; the same command with --minutes 10 "
        "chooses settings that fit into ten minutes"
    )


def busy_machine(seconds: float, processor: float) -> str | None:
    """Return what to say of a step on a CPU that got so many seconds of processor time; None where
    that is as it should be."""
    if seconds < _SHORT or processor >= _BUSY * seconds:
        return None
    return (
        f"other programs are at work: a step took {seconds:.1f} s and got {processor:.1f} s of the "
        "processor; without them, or with --set run.threads=1, a run goes faster"
    )
