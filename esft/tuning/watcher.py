"""What a run tells while it runs, and at its end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from esft.engine.journal import Back
from esft.rollout.results import Evaluation
from esft.runs.budget import Budget, Spent
from esft.runs.steps import StepMetrics, StepTimes
from esft.tuning.answers import Sample
from esft.tuning.clock import Left
from esft.tuning.peak import Peak


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """A task on the base model and on the model as it is."""

    name: str
    base: Evaluation
    now: Evaluation
    kl: float | None = None  # as `RecordedScore` has it
    kl_se: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to."""

    run_path: str
    model_path: str | None  # None where the run keeps none
    steps: int
    planned: int  # a run may end before, where it is stopped or past its peak
    stopped: bool
    task: str
    base: Evaluation
    tuned: Evaluation
    peak: Peak | None  # that ended the run, whose model it keeps
    best_step: int | None  # by holdout reward; 0 is the base model, None where none is finite
    priors: tuple[TaskScores, ...]
    samples: tuple[Sample, ...]  # holdout rows with the answers of both
    grader_failures: int
    drift: float
    forecast: float
    seconds: float
    times: StepTimes | None  # of the steps that were made now
    peak_memory: int
    stages: int = 0  # of a chain
    budget: Budget = field(default_factory=Budget)
    backs: tuple[Back, ...] = ()  # each time that it was above
    spent: Spent | None = None  # why it ended above, whose model it keeps
    kl: float | None = None  # of `tuned`, as `RecordedScore` has it
    kl_se: float | None = None


def as_forecast(drift: float, forecast: float) -> bool:
    """Return whether ||D|| is its forecast within a percent, as where every update lands; beside
    one another they say nothing more."""
    return abs(drift - forecast) <= 0.01 * forecast


class Watcher(Protocol):
    """Shows what a run, or other long work, does while it does it.

    Work that is not a run calls `phase`, `rebuild`, `progress` and `notice` alone.
    """

    def phase(self, text: str) -> None:
        """Something that takes a while begins."""

    def progress(self, text: str, done: int, total: int) -> None:
        """So much of something is done: members of a step, steps that are made again."""

    def rebuild(self, since: int, to: int, seconds: float) -> None:
        """The steps after `since` are made again from the journal, which takes about so long."""

    def notice(self, text: str) -> None:
        """Something out of the ordinary happened, and the work goes on."""

    def plan(self, lines: Sequence[tuple[str, str]]) -> None:
        """The model is loaded; this is what will happen, as (label, text)."""

    def begin(self, base: Evaluation, done: int, steps: int) -> None:
        """The base is evaluated and step `done` + 1 begins: from here on there is one in hand."""

    def members(self, done: int, total: int, left: Left | None) -> None:
        """So many members of the step in hand are done; None while too few tell what is left."""

    def step(self, metrics: StepMetrics, left: Left | None) -> None:
        """A step is done and recorded."""

    def answers(self, title: str, samples: Sequence[Sample]) -> None:
        """This was answered to some rows."""

    def evaluation(self, step: int, scores: tuple[TaskScores, ...]) -> None:
        """The target, first, and the prior tasks were evaluated after `step`."""
