"""The tasks that a run evaluated while tuning, compared with its base row by row."""

import math
from pathlib import Path

from esft.files import slug
from esft.report.eval_file import score_of
from esft.report.numbers import Change, Judgement, Score, TaskNumbers, number
from esft.runs.records import read_lines
from esft.stats.paired import compare, compare_rewards
from esft.stats.verdict import diagnose


def recorded_tasks(path: Path) -> list[TaskNumbers]:
    """Return the tasks of a run's evals.jsonl, in the order they were first evaluated.

    Raises:
        RunError: if a file has a line that is no record.
    """
    found: dict[tuple[str, str], dict[int, Score]] = {}
    for line in read_lines(path / "evals.jsonl"):
        scores = found.setdefault((line["role"], line["task"]), {})
        scores[line["step"]] = score_of(line)
    return [_task(path, role, name, scores) for (role, name), scores in found.items()]


def joined(measured: TaskNumbers, recorded: TaskNumbers) -> TaskNumbers | None:
    """Return a task of eval.json with the steps that the run evaluated besides.

    None where the two are of different rows: they have no step in common, or differ there.
    """
    ours = {score.step: score for score in recorded.scores}
    shared = [(each, ours[each.step]) for each in measured.scores if each.step in ours]
    if not shared or any(_rows_differ(one, other) for one, other in shared):
        return None
    return TaskNumbers(
        name=measured.name,
        role=measured.role,
        scores=_union(measured.scores, recorded.scores),
        changes=_union(measured.changes, recorded.changes),
        verdict=measured.verdict or recorded.verdict,
        kl=measured.kl,
    )


def _rows_differ(one: Score, other: Score) -> bool:
    return (one.n, one.accuracy) != (other.n, other.accuracy)


def _union(first: tuple, second: tuple) -> tuple:
    by_step = {each.step: each for each in second} | {each.step: each for each in first}
    return tuple(by_step[step] for step in sorted(by_step))


Rows = dict[str, tuple[float, float]]
"""Key of a row to whether it is right (0 or 1) and its reward, NaN where the model overflowed."""


def _task(path: Path, role: str, name: str, scores: dict[int, Score]) -> TaskNumbers:
    steps = sorted(scores)
    rows = {step: _rows(path, name, scores[step]) for step in steps}
    base = rows.pop(0, None)
    later = {step: row for step, row in rows.items() if _comparable(base, row)}
    return TaskNumbers(
        name=name,
        role=role,
        scores=tuple(scores[step] for step in steps),
        changes=tuple(_change(step, base, row) for step, row in later.items()),
        verdict=_verdict(base, later) if role == "prior" and later else None,
    )


def _rows(path: Path, name: str, score: Score) -> Rows | None:
    """Return the rows of an evaluation; None where they are not all there."""
    lines = read_lines(path / "evals" / f"{slug(name)}-{score.step}.jsonl")
    if len(lines) != score.n or any(line["correct"] is None for line in lines):
        return None
    return {line["key"]: (float(line["correct"]), _reward(line)) for line in lines}


def _reward(line: dict) -> float:
    found = number(line["reward"])
    return math.nan if found is None else found


def _comparable(base: Rows | None, later: Rows | None) -> bool:
    return bool(base) and later is not None and list(base) == list(later)


def _correct(rows: Rows) -> list[float]:
    return [right for right, _ in rows.values()]


def _change(step: int, base: Rows, later: Rows) -> Change:
    found = compare(_correct(base), _correct(later))
    rewards = compare_rewards(list(base.values()), list(later.values()))
    return Change(
        step=step,
        change=number(found.difference),
        se=number(found.se),
        low=number(found.interval.low),
        high=number(found.interval.high),
        gained=len(found.gained),
        lost=len(found.lost),
        p=number(found.p_value),
        reward_change=None if rewards is None else number(rewards.difference),
        reward_se=None if rewards is None else number(rewards.se),
        reward_low=None if rewards is None else number(rewards.interval.low),
        reward_high=None if rewards is None else number(rewards.interval.high),
    )


def _verdict(base: Rows, later: dict[int, Rows]) -> Judgement:
    found = diagnose(_correct(base), {step: _correct(rows) for step, rows in later.items()})
    return Judgement(
        kind=found.kind,
        text=found.text,
        difference=number(found.difference),
        low=number(found.interval.low),
        high=number(found.interval.high),
        rows_needed=found.rows_needed,
        evaluations_needed=found.evaluations_needed,
    )
