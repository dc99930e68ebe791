"""What a report says of a run, as plain numbers: the form of `esft report --json`.

Accuracies are fractions; None stands for what is not known or was no finite number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Score:
    """One evaluation of a task; `se` and `reward_se` are standard errors over its rows."""

    step: int
    """0 is the base model."""
    n: int
    accuracy: float | None
    se: float | None
    reward: float | None
    reward_se: float | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """A step against the base, paired on the same rows."""

    step: int
    change: float | None
    se: float | None
    low: float | None
    high: float | None
    """`low` to `high`: the 95 % interval of `change`."""
    gained: int
    """Rows wrong before and right now."""
    lost: int
    p: float | None
    """McNemar's exact test."""
    reward_change: float | None = None
    """Of the mean reward; None where that only says right or wrong, like the three that follow."""
    reward_se: float | None = None
    reward_low: float | None = None
    reward_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on a prior task."""

    kind: str
    text: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    rows_needed: int | None = None
    evaluations_needed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Kl:
    """An estimate of a divergence, in nats a token."""

    kl: float | None
    se: float | None
    tokens: int | None = None
    prompts: int | None = None


@dataclass(frozen=True, kw_only=True)
class KlPair:
    """How far the tuned model's answers to a task's prompts are from those of the base."""

    step: int
    base_to_tuned: Kl | None
    """KL(p0||p), on continuations of the base model."""
    tuned_to_base: Kl | None
    """KL(p||p0), on the tuned model's own."""


@dataclass(frozen=True, kw_only=True)
class TaskNumbers:
    """A task at the steps where it was evaluated."""

    name: str
    role: str
    """ "target" or "prior"."""
    scores: tuple[Score, ...] = ()
    changes: tuple[Change, ...] = ()
    verdict: Judgement | None = None
    kl: tuple[KlPair, ...] = ()

    @property
    def before(self) -> Score | None:
        """The evaluation of the base model."""
        return next((score for score in self.scores if score.step == 0), None)

    @property
    def after(self) -> Score | None:
        """The last evaluation after it."""
        later = [score for score in self.scores if score.step != 0]
        return later[-1] if later else None

    @property
    def change(self) -> Change | None:
        """Of the last evaluation."""
        after = self.after
        found = [each for each in self.changes if after is not None and each.step == after.step]
        return found[0] if found else None


@dataclass(frozen=True, kw_only=True)
class StepNumbers:
    """One step: the rewards of its population, and the drift after it."""

    step: int
    reward_mean: float | None
    reward_best: float | None
    reward_worst: float | None
    reward_sd: float | None
    """Standard deviation of the members' rewards, ddof 0; with the worst from the journal."""
    correct: float | None
    """Share of the population's answers that are right."""
    drift: float | None
    """||D||."""
    forecast: float | None
    """Of ||D||."""
    free: float | None
    """Forecast of ||D|| without decay."""
    ratio: float | None
    """Drift over forecast."""
    left: float | None
    """Drift over the forecast without decay: what the decay left of it."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The drift of one layer."""

    name: str
    norm: float | None
    numel: int

    @property
    def rms(self) -> float | None:
        """Root mean square of D over the layer's elements."""
        return None if self.norm is None or not self.numel else self.norm / math.sqrt(self.numel)


@dataclass(frozen=True, kw_only=True)
class DriftNumbers:
    """The drift measured at a step."""

    step: int
    norm: float | None
    forecast: float | None
    zero_share: float | None
    """Of elements with D = 0."""
    unmoved_share: float | None
    """Of weights whose bits are those of the base."""
    layers: tuple[Layer, ...] = ()


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
    """Those done."""
    planned: int | None
    settings: dict[str, object] = field(default_factory=dict)
    tasks: tuple[TaskNumbers, ...] = ()
    progress: tuple[StepNumbers, ...] = ()
    decay: Decay | None = None
    drift: tuple[DriftNumbers, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader should know of these numbers."""


def number(value: object) -> float | None:
    """Return a recorded number; None for none, NaN and infinities."""
    if value is None:
        return None
    found = float(value)  # type: ignore[arg-type]
    return found if math.isfinite(found) else None


def quotient(part: float | None, whole: float | None) -> float | None:
    """Return part / whole where that is a number."""
    return part / whole if part is not None and whole else None
