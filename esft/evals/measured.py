"""What was measured of a task, and the figures that come of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from esft.evals.results import (
    Comparison,
    KlPair,
    LargestScore,
    StepPasses,
    TaskResult,
    compared,
    with_knowing,
)
from esft.rollout.results import Evaluation, RowResult, d_prime_kept
from esft.runs.records import StepScore
from esft.stats.kept import Kept, kept_of_rows
from esft.stats.knowing import Estimate
from esft.stats.passes import pass_rates
from esft.tuning.tasks import EvalTask, rows_hash


@dataclass(frozen=True, kw_only=True)
class MeasuredTask:
    """A task with what was measured of it, in the order of its steps."""

    task: EvalTask
    steps: tuple[int, ...]  # rising from 0
    evaluations: list[Evaluation] = field(default_factory=list)
    kl: list[KlPair] = field(default_factory=list)  # of every step but the base
    samples: dict[int, Evaluation] = field(default_factory=dict)
    """By step, of the base and those with a KL divergence: as `tasks.sampling` has the rows."""
    largest: dict[tuple[float, float], Evaluation] = field(default_factory=dict)
    """By percent and scale, of the step whose changes are told apart: see `LargestScore`."""


def task_result(measured: MeasuredTask, margin: float, kept: int | None = None) -> TaskResult:
    """Return the figures of one task: evaluations, comparisons with the base, verdict, KL; `kept`
    as `TaskResult` has it."""
    task = measured.task
    by_step = dict(zip(measured.steps, measured.evaluations, strict=True))
    result = TaskResult(
        name=task.name,
        role=task.role,
        evaluations=tuple(
            StepScore(step=step, **evaluation.figures()) for step, evaluation in by_step.items()
        ),
        kl=tuple(measured.kl),
        passes=_passes(measured),
        scoring=task.rollout.scoring,
        hash=rows_hash(one.row for one in task.encoded),
        kept=kept,
    )
    rows = {
        step: [(float(bool(row.correct)), float(row.reward)) for row in evaluation.results]
        for step, evaluation in by_step.items()
    }
    result = compared(result, rows, [one.row.id for one in task.encoded], margin)
    result = with_knowing(result, {step: one.results for step, one in by_step.items()})
    if not measured.largest:
        return result
    whole = by_step[result.change.step]
    return replace(result, largest=_largest_scores(result.change, by_step[0], whole, measured))


def _largest_scores(
    change: Comparison, base: Evaluation, whole: Evaluation, measured: MeasuredTask
) -> tuple[LargestScore, ...]:
    """Return what is left of a change, from `base` to `whole`, with each part of it."""
    d_prime = (change.knowing or {}).get("d_prime", Estimate(value=None))
    found = {
        "accuracy": (change.low, change.high),
        "reward": (change.reward_low, change.reward_high),
        "d_prime": (d_prime.low, d_prime.high),
    }
    told = [name for name, (low, high) in found.items() if low is not None and low * high > 0]
    scores = []
    for (percent, scale), part in {(100.0, 1.0): whole, **measured.largest}.items():
        models = base.results, whole.results, part.results
        score = StepScore(step=change.step, **part.figures())
        shares = {name: _KEPT[name](*models) for name in told}
        scores.append(LargestScore(percent=percent, scale=scale, score=score, **shares))
    return tuple(scores)


def _accuracy_kept(*models: Sequence[RowResult]) -> Kept | None:
    return kept_of_rows(*([float(bool(row.correct)) for row in rows] for rows in models))


def _reward_kept(*models: Sequence[RowResult]) -> Kept | None:
    return kept_of_rows(*([row.reward for row in rows] for rows in models))


_KEPT = {"accuracy": _accuracy_kept, "reward": _reward_kept, "d_prime": d_prime_kept}
"""Which share of a change from the base to a step a part of it makes."""


def _passes(measured: MeasuredTask) -> tuple[StepPasses, ...]:
    rows, right, passes = len(measured.task.encoded), {}, []
    for step, evaluation in measured.samples.items():
        outcomes = [bool(result.correct) for result in evaluation.results]
        right[step] = [sum(outcomes[row::rows]) for row in range(rows)]
        base = right[0] if step else None
        rates = pass_rates(len(outcomes) // rows, right[step], base)
        passes.append(StepPasses(step=step, rates=rates))
    return tuple(passes)
