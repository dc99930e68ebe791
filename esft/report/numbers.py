"""What a report says of a run, as plain numbers: the form of `esft report --json`.

Accuracies are fractions; None stands for what is not known or was not a finite number.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from esft.engine.anchor import pull_of
from esft.engine.forecast import forecast_of
from esft.engine.journal_read import JournalRecord
from esft.evals.results import StepDrift, TaskResult
from esft.report.answers import TaskAnswers
from esft.runs.records import metrics
from esft.runs.steps import ProbeRecord, StepTimes
from esft.stats.forgetting import Forgetting


@dataclass(frozen=True, kw_only=True)
class StepNumbers:
    """One step: the rewards of its population, and ||D|| after it, as metrics.jsonl has them."""

    step: int
    reward_mean: float | None
    reward_best: float | None
    reward_worst: float | None
    reward_sd: float | None  # of the members, ddof 0; with the worst from the journal
    correct: float | None
    drift: float | None
    anchor: float | None  # how far from the base it is, where it moves
    forecast: float | None
    free: float | None  # forecast without decay
    noise: float | None  # sigma^2 / N
    verdict: str | None  # of the signal meter, on the first steps
    silent: float | None  # share of rows on which no two members differ
    reliability: float | None  # what of the members' ranking is signal, 0 to 1
    cut: float | None  # share of answers cut off
    changed: float | None  # share of codes that the step made others; None of floats
    kl: float | None  # of members from the anchor, mean, in nats a token
    penalty: float | None  # what it takes from their rewards, which are told without it
    ratio: float | None  # drift over forecast
    left: float | None  # drift over `free`: what the decay left of it
    seconds: float | None
    times: StepTimes | None  # where the seconds went


@dataclass(frozen=True, kw_only=True)
class Decay:
    """What anchored weight decay did in a run."""

    awd: float
    norm: str
    pull: float  # alpha * lambda: a share of D (l2), or weight (l1), a step
    half_life: int | None  # steps; None for l1 and without decay
    walk: float  # random-walk step of a weight, alpha / sqrt(N)
    text: str


@dataclass(frozen=True, kw_only=True)
class RunNumbers:
    """All that a report says of one run."""

    name: str
    label: str  # what it is called by: of several runs, what sets it apart
    path: str
    state: str
    started: str | None
    task: str
    model: str
    base: str | None  # identity of the base model
    dtype: str | None
    device: str | None
    parameters: int | None  # elements tuned
    steps: int  # those done of `planned`
    planned: int | None
    settings: dict[str, object] = field(default_factory=dict)
    tasks: tuple[TaskResult, ...] = ()
    progress: tuple[StepNumbers, ...] = ()
    times: StepTimes | None = None  # of all steps whose times are known
    decay: Decay | None = None
    noise: str | None = None  # what the noise of its search comes to
    signal: str | None = None  # what its first steps said of their signal
    probe: ProbeRecord | None = None  # by what its sigma was chosen
    drift: tuple[StepDrift, ...] = ()
    forgetting: Forgetting | None = None  # of a chain of tasks
    answers: tuple[TaskAnswers, ...] = ()
    notes: tuple[str, ...] = ()


def progress_of(
    path: Path, record: JournalRecord | None, numel: int | None
) -> tuple[StepNumbers, ...]:
    """Return the steps of metrics.jsonl, with what the journal knows of them where it is there."""
    lines = {line.step: line for line in metrics(path)}
    rewards = {} if record is None else {step.step: step.rewards for step in record.steps}
    free = [] if record is None or numel is None else forecast_of(record, numel, free=True).norms
    steps = []
    for step, line in sorted(lines.items()):
        finite = [reward for reward in rewards.get(step, ()) if math.isfinite(reward)]
        drift, forecast = line.drift, line.forecast
        expected, signal = free[step] if step < len(free) else None, line.signal
        numbers = StepNumbers(
            step=step,
            reward_mean=line.reward_mean,
            reward_best=line.reward_best,
            reward_worst=min(finite, default=None),
            reward_sd=statistics.pstdev(finite) if finite else None,
            correct=line.correct,
            drift=drift,
            anchor=line.anchor,
            forecast=forecast,
            free=expected,
            noise=line.noise,
            changed=line.changed,
            kl=line.kl,
            penalty=line.penalty,
            verdict=line.verdict,
            silent=signal and signal.silent,
            reliability=_at_least_0(signal and signal.reliability),
            cut=signal and signal.cut,
            ratio=drift / forecast if drift is not None and forecast else None,
            left=drift / expected if drift is not None and expected else None,
            seconds=line.seconds,
            times=line.times,
        )
        steps.append(numbers)
    return tuple(steps)


def signal_of(progress: tuple[StepNumbers, ...]) -> str | None:
    """Return what the signal meter said of a run's first steps, of a chain those of its first
    stage, with its figures; None where it said nothing."""
    said = [(step.step, step.verdict) for step in progress if step.verdict is not None]
    if not said:
        return None
    last, verdict = said[0]
    first = [step for step in progress if step.step <= last]
    figures = (
        ("{:.0%} of rows told members nothing", "silent"),
        ("{:.0%} of answers were cut off", "cut"),
    )
    words = []
    for text, name in figures:
        values = [value for step in first if (value := getattr(step, name)) is not None]
        if values:
            words.append(text.format(statistics.fmean(values)))
    return f"{verdict} ({', '.join(words)})"


def _at_least_0(value: float | None) -> float | None:
    return None if value is None else max(0.0, value)


def noise_of(progress: tuple[StepNumbers, ...]) -> str | None:
    """Return in words how large the noise of the search is; None where no step says it."""
    known = [(step.step, step.noise) for step in progress if step.noise is not None]
    if not known:
        return None
    (first, began), (last, ended) = known[0], known[-1]
    if ended > 0.99 * began:
        return f"sigma^2 / N is {began:.3g}"
    return f"sigma^2 / N is {began:.3g} in step {first} and {ended:.3g} in step {last}"


def decay_of(settings: dict[str, object], progress: tuple[StepNumbers, ...]) -> Decay | None:
    """Return what the decay of a run did; None where its settings do not say."""
    names = ("search.alpha", "search.population", "anchor.awd", "anchor.norm")
    if any(settings.get(name) is None for name in names):
        return None
    alpha, population, awd, norm = (settings[name] for name in names)
    pull, walk, half_life = pull_of(alpha, awd, norm), alpha / math.sqrt(population), None
    text = "No decay: the drift is free."
    if awd and norm == "l2":
        half_life = 1 if pull >= 0.5 else math.ceil(math.log(2) / -math.log1p(-pull))
        steps = f"{half_life:,} step{'s' * (half_life != 1)}"
        text = f"L2, lambda {awd:g}: each step takes {pull:.2%} of the drift, half-life {steps}."
    elif awd:
        text = (
            f"L1, lambda {awd:g}: each step pulls every weight by {pull:.2g} towards its base, "
            f"against a random-walk step of {walk:.2g}."
        )
    if awd and settings.get("search.anneal") is not None:
        text += " So in the first step: the pull falls with alpha."
    last = progress[-1] if progress else None
    if last is not None and last.drift is not None and last.free is not None:
        text += f" After step {last.step} ||D|| is {last.drift:.4g}; {last.free:.4g} was to be"
        text += " expected"
        if awd and last.left is not None:
            text += f" without decay: {last.left:.1%} of it is left"
        text += "."
    if awd and last is not None and last.anchor is not None:
        text += f" What pulls is an anchor that follows the weights, by now {last.anchor:.4g} from"
        text += " the base."
    return Decay(awd=awd, norm=norm, pull=pull, half_life=half_life, walk=walk, text=text)
