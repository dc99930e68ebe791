"""What an evaluation of steps comes to, as eval.json has it."""

from collections.abc import Sequence

from esft.evals.evaluator import Measured
from esft.evals.results import KlPair, StepScore, TaskResult, comparison_of, from_json
from esft.rollout.results import Evaluation
from esft.runs.records import finite
from esft.stats.verdict import diagnose
from esft.tuning.sampler import rows_hash


def task_result(
    measured: Measured, steps: Sequence[int], margin: float, kl: Sequence[KlPair]
) -> TaskResult:
    """Return the figures of one task: evaluations, comparisons with the base, verdict, KL."""
    subject, (base, *later) = measured.subject, measured.evaluations
    rows = subject.encoded.rows
    return TaskResult(
        name=subject.name,
        role=subject.role,
        scoring=subject.rollout.scoring,
        hash=rows_hash(rows),
        evaluations=tuple(
            from_json(StepScore, {"step": step} | finite(evaluation.summary()))
            for step, evaluation in zip(steps, measured.evaluations, strict=True)
        ),
        comparisons=tuple(
            comparison_of(step, _rows(base), _rows(now), [row.id for row in rows])
            for step, now in zip(steps[1:], later, strict=True)
        ),
        verdict=diagnose(
            correct(base),
            {step: correct(now) for step, now in zip(steps[1:], later, strict=True)},
            margin,
        )
        if later
        else None,
        kl=tuple(kl),
    )


def correct(evaluation: Evaluation) -> list[float]:
    """Return whether each row is right, as 0 or 1."""
    return [float(bool(result.correct)) for result in evaluation.results]


def _rows(evaluation: Evaluation) -> list[tuple[float, float]]:
    """Return correct and reward, row by row."""
    rewards = [float(result.reward) for result in evaluation.results]
    return list(zip(correct(evaluation), rewards, strict=True))
