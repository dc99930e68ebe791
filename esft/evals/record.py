"""What an evaluation of steps comes to, as eval.json has it."""

from collections.abc import Sequence
from dataclasses import asdict

from esft.evals.evaluator import Measured, NoiseFloor
from esft.evals.subjects import Missed
from esft.rollout.results import Evaluation
from esft.runs.records import finite
from esft.stats.paired import compare, compare_rewards
from esft.stats.verdict import diagnose
from esft.tuning.sampler import rows_hash


def task_record(
    measured: Measured, steps: Sequence[int], margin: float, kl: list[dict]
) -> dict[str, object]:
    """Return the figures of one task: evaluations, comparisons with the base, verdict, KL."""
    subject, evaluations = measured.subject, measured.evaluations
    base, later = evaluations[0], dict(zip(steps[1:], evaluations[1:], strict=True))
    return {
        "name": subject.name,
        "role": subject.role,
        "rows": base.n,
        "scoring": subject.rollout.scoring,
        "hash": rows_hash(subject.encoded.rows),
        "evaluations": [
            {"step": step} | finite(each.summary())
            for step, each in zip(steps, evaluations, strict=True)
        ],
        "comparisons": [_comparison(step, base, each, measured) for step, each in later.items()],
        "verdict": _verdict(base, later, margin) if later else None,
        "kl": kl,
    }


def noise_record(floor: NoiseFloor | None) -> dict[str, object] | None:
    """Return what changes where nothing does: the base model in batches of another size."""
    if floor is None:
        return None
    changed = sum(floor.changed.values())
    text = (
        f"the base model in batches of {floor.other} instead of {floor.batch}: {changed} of "
        f"{floor.rows} rows change between right and wrong"
    )
    return {"text": text, "changed": floor.changed, "rows": floor.rows}


def missed_records(missed: Sequence[Missed]) -> list[dict[str, object]]:
    """Return the tasks that could not be measured, and why."""
    return [asdict(each) for each in missed]


def correct(evaluation: Evaluation) -> list[float]:
    """Return whether each row is right, as 0 or 1."""
    return [float(bool(result.correct)) for result in evaluation.results]


def _rows(evaluation: Evaluation) -> list[tuple[float, float]]:
    """Return correct and reward, row by row."""
    rewards = [float(result.reward) for result in evaluation.results]
    return list(zip(correct(evaluation), rewards, strict=True))


def _comparison(
    step: int, base: Evaluation, now: Evaluation, measured: Measured
) -> dict[str, object]:
    paired = compare(correct(base), correct(now))
    ids = [row.id for row in measured.subject.encoded.rows]
    rewards = compare_rewards(_rows(base), _rows(now))
    figures = {
        "step": step,
        "change": paired.difference,
        "se": paired.se,
        "low": paired.interval.low,
        "high": paired.interval.high,
        "gained": len(paired.gained),
        "lost": len(paired.lost),
        "p": paired.p_value,
    }
    if rewards is not None:
        figures |= {
            "reward_change": rewards.difference,
            "reward_se": rewards.se,
            "reward_low": rewards.interval.low,
            "reward_high": rewards.interval.high,
        }
    return finite(figures) | {
        "gained_rows": [ids[place] for place in paired.gained],
        "lost_rows": [ids[place] for place in paired.lost],
    }


def _verdict(base: Evaluation, later: dict[int, Evaluation], margin: float) -> dict[str, object]:
    found = diagnose(correct(base), {step: correct(each) for step, each in later.items()}, margin)
    return {
        "kind": found.kind,
        "text": found.text,
        "difference": found.difference,
        "low": found.interval.low,
        "high": found.interval.high,
        "rows_needed": found.rows_needed,
        "evaluations_needed": found.evaluations_needed,
    }
