"""What a report says of a run, as plain numbers: the form of `esft report --json`.

Accuracies are fractions; None stands for what is not known or was no finite number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from esft.evals.results import StepDrift, TaskResult


@dataclass(frozen=True, kw_only=True)
class StepNumbers:
    """One step: the rewards of its population, and ||D|| after it, as metrics.jsonl has them."""

    step: int
    reward_mean: float | None
    reward_best: float | None
    reward_worst: float | None
    reward_sd: float | None
    """Standard deviation of the members' rewards, ddof 0; with the worst from the journal."""
    correct: float | None
    drift: float | None
    forecast: float | None
    free: float | None
    """Forecast without decay."""
    ratio: float | None
    """Drift over forecast."""
    left: float | None
    """Drift over `free`: what the decay left of it."""


@dataclass(frozen=True, kw_only=True)
class Decay:
    """What anchored weight decay did in a run."""

    awd: float
    norm: str
    pull: float
    """alpha * lambda: a share of D (l2), or weight (l1), a step."""
    half_life: int | None
    """Steps after which half of a drift is gone; None for l1 and without decay."""
    walk: float
    """Random-walk step of a weight, alpha / sqrt(N)."""
    text: str


@dataclass(frozen=True, kw_only=True)
class RunNumbers:
    """All that a report says of one run."""

    name: str
    path: str
    state: str
    started: str | None
    model: str
    base: str | None
    """Identity of the base model."""
    dtype: str | None
    device: str | None
    parameters: int | None
    """Elements tuned."""
    steps: int
    """Those done of `planned`."""
    planned: int | None
    settings: dict[str, object] = field(default_factory=dict)
    tasks: tuple[TaskResult, ...] = ()
    progress: tuple[StepNumbers, ...] = ()
    decay: Decay | None = None
    drift: tuple[StepDrift, ...] = ()
    notes: tuple[str, ...] = ()
