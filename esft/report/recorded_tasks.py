"""The tasks that a run evaluated while tuning, compared with its base row by row."""

from pathlib import Path

from esft.evals.results import StepScore, TaskResult, comparison_of, from_json
from esft.files import slug
from esft.runs.records import read_lines
from esft.stats.verdict import diagnose


def recorded_tasks(path: Path) -> list[TaskResult]:
    """Return the tasks of a run's evals.jsonl, in the order they were first evaluated.

    Raises:
        RunError: if a file has a line that is no record.
    """
    found: dict[tuple[str, str], dict[int, StepScore]] = {}
    for line in read_lines(path / "evals.jsonl"):
        scores = found.setdefault((line["role"], line["task"]), {})
        scores[line["step"]] = from_json(StepScore, line)
    return [_task(path, role, name, scores) for (role, name), scores in found.items()]


def joined(measured: TaskResult, recorded: TaskResult) -> TaskResult | None:
    """Return a task of eval.json with the steps that the run evaluated besides.

    None where the two are of different rows: they have no step in common, or differ there.
    """
    ours = {score.step: score for score in recorded.evaluations}
    shared = [(each, ours[each.step]) for each in measured.evaluations if each.step in ours]
    if not shared or any(_rows_differ(one, other) for one, other in shared):
        return None
    return TaskResult(
        name=measured.name,
        role=measured.role,
        evaluations=_union(measured.evaluations, recorded.evaluations),
        comparisons=_union(measured.comparisons, recorded.comparisons),
        verdict=measured.verdict or recorded.verdict,
        kl=measured.kl,
    )


def _rows_differ(one: StepScore, other: StepScore) -> bool:
    return (one.n, one.accuracy) != (other.n, other.accuracy)


def _union(first: tuple, second: tuple) -> tuple:
    by_step = {each.step: each for each in second} | {each.step: each for each in first}
    return tuple(by_step[step] for step in sorted(by_step))


Rows = dict[tuple[str, str], tuple[float, float]]
"""Id and key of a row to whether it is right (0 or 1) and its reward; NaN is an overflow."""


def _task(path: Path, role: str, name: str, scores: dict[int, StepScore]) -> TaskResult:
    steps = sorted(scores)
    rows = {step: _rows(path, name, scores[step]) for step in steps}
    base = rows.pop(0, None)
    later = {step: row for step, row in rows.items() if _comparable(base, row)}
    return TaskResult(
        name=name,
        role=role,
        evaluations=tuple(scores[step] for step in steps),
        comparisons=tuple(
            comparison_of(step, list(base.values()), list(row.values()), [id for id, _ in base])
            for step, row in later.items()
        ),
        verdict=diagnose(_correct(base), {step: _correct(row) for step, row in later.items()})
        if role == "prior" and later
        else None,
    )


def _rows(path: Path, name: str, score: StepScore) -> Rows | None:
    """Return the rows of an evaluation; None where they are not all there."""
    lines = read_lines(path / "evals" / f"{slug(name)}-{score.step}.jsonl")
    if len(lines) != score.n or any(line["correct"] is None for line in lines):
        return None
    return {
        (line["id"], line["key"]): (float(line["correct"]), from_json(float, line["reward"]))
        for line in lines
    }


def _comparable(base: Rows | None, later: Rows | None) -> bool:
    return bool(base) and later is not None and list(base) == list(later)


def _correct(rows: Rows) -> list[float]:
    return [right for right, _ in rows.values()]
