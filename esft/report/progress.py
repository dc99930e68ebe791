"""The steps of a run: rewards of the population, drift, and what the decay did to it."""

import math
from pathlib import Path

from esft.engine.anchor import pull_of
from esft.engine.forecast import forecast_of
from esft.engine.journal_read import JournalRecord
from esft.evals.results import known
from esft.report.numbers import Decay, StepNumbers
from esft.runs.records import read_lines


def progress_of(
    path: Path, record: JournalRecord | None, numel: int | None
) -> tuple[StepNumbers, ...]:
    """Return the steps of metrics.jsonl, with what the journal knows of them where it can be read.

    Raises:
        RunError: if a file has a line that is not a record.
    """
    lines = {line["step"]: line for line in read_lines(path / "metrics.jsonl")}
    rewards = {} if record is None else {step.step: step.rewards for step in record.steps}
    free = [] if record is None or numel is None else forecast_of(record, numel, free=True).norms
    return tuple(
        _step(lines[step], rewards.get(step, ()), free[step] if step < len(free) else None)
        for step in sorted(lines)
    )


def decay_of(settings: dict[str, object], progress: tuple[StepNumbers, ...]) -> Decay | None:
    """Return what the decay of a run did; None where its settings do not say."""
    names = ("search.alpha", "search.population", "anchor.awd", "anchor.norm")
    if any(settings.get(name) is None for name in names):
        return None
    alpha, population, awd, norm = (settings[name] for name in names)
    pull = pull_of(alpha, awd, norm)
    walk = alpha / math.sqrt(population)
    half_life = None
    if norm == "l2" and pull > 0:
        half_life = 1 if pull >= 0.5 else math.ceil(math.log(2) / -math.log1p(-pull))
    return Decay(
        awd=awd,
        norm=norm,
        pull=pull,
        half_life=half_life,
        walk=walk,
        text=" ".join([_rule(awd, norm, pull, half_life, walk), _outcome(awd, progress)]).strip(),
    )


def _step(line: dict, rewards: tuple[float, ...], free: float | None) -> StepNumbers:
    finite = [reward for reward in rewards if math.isfinite(reward)]
    spread = None
    if finite:
        mean = math.fsum(finite) / len(finite)
        spread = math.sqrt(math.fsum((reward - mean) ** 2 for reward in finite) / len(finite))
    drift, forecast = known(line.get("drift")), known(line.get("forecast"))
    return StepNumbers(
        step=line["step"],
        reward_mean=known(line.get("reward_mean")),
        reward_best=known(line.get("reward_best")),
        reward_worst=min(finite, default=None),
        reward_sd=spread,
        correct=known(line.get("correct")),
        drift=drift,
        forecast=forecast,
        free=free,
        ratio=drift / forecast if drift is not None and forecast else None,
        left=drift / free if drift is not None and free else None,
    )


def _rule(awd: float, norm: str, pull: float, half_life: int | None, walk: float) -> str:
    if awd == 0:
        return "No decay: the drift is free."
    if norm == "l2":
        steps = f"{half_life:,} step{'s' * (half_life != 1)}"
        return f"L2, lambda {awd:g}: each step takes {pull:.2%} of the drift, half-life {steps}."
    return (
        f"L1, lambda {awd:g}: each step pulls every weight by {pull:.2g} towards its base, "
        f"against a random-walk step of {walk:.2g}."
    )


def _outcome(awd: float, progress: tuple[StepNumbers, ...]) -> str:
    last = progress[-1] if progress else None
    if last is None or last.drift is None or last.free is None:
        return ""
    text = f"After step {last.step} ||D|| is {last.drift:.4g}; {last.free:.4g} was to be expected"
    if awd == 0 or last.left is None:
        return f"{text}."
    return f"{text} without decay: {last.left:.1%} of it is left."
