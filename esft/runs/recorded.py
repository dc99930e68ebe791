"""What a run folder has on record, read back."""

import json
import math
from dataclasses import dataclass

from esft.errors import RunError
from esft.files import write_whole
from esft.rollout.results import Evaluation, number, result_of
from esft.runs.folder import RunFolder
from esft.runs.records import read_lines


@dataclass(frozen=True, kw_only=True)
class Best:
    """The step whose holdout reward is the best so far."""

    step: int
    """0 is the base model."""
    reward: float


def summaries(run: RunFolder) -> list[dict[str, object]]:
    """Return the lines of evals.jsonl: one an evaluation, in the order they were made."""
    return read_lines(run.evaluations_path)


def metrics(run: RunFolder) -> list[dict[str, object]]:
    """Return the lines of metrics.jsonl: one a step."""
    return read_lines(run.metrics_path)


def best_of(found: list[dict[str, object]]) -> Best | None:
    """Return the best step of the target among `summaries`, the first of equal ones."""
    best = None
    for each in found:
        reward = each["reward"]
        if each["role"] != "target" or reward is None or math.isnan(reward):
            continue
        if best is None or reward > best.reward:
            best = Best(step=each["step"], reward=reward)
    return best


def evaluation(run: RunFolder, summary: dict[str, object]) -> Evaluation:
    """Return an evaluation with its rows.

    Raises:
        RunError: if its rows are not there.
    """
    file = run.rows_path(str(summary["task"]), summary["step"])
    rows = read_lines(file)
    if len(rows) != summary["n"]:
        raise RunError(
            f"{file} has {len(rows)} rows, expected {summary['n']}, as evals.jsonl says",
            hint="take the file back; or move evals.jsonl away, and they are scored again",
        )
    return Evaluation(
        n=len(rows),
        accuracy=number(summary["accuracy"]),
        accuracy_se=number(summary["se"]),
        reward=number(summary["reward"]),
        reward_se=number(summary["reward_se"]),
        acc=summary.get("acc"),
        results=tuple(result_of(row) for row in rows),
    )


def drop_after(run: RunFolder, step: int) -> None:
    """Remove what is recorded of steps after `step`, and lines that were cut off half-way."""
    for path in (run.metrics_path, run.evaluations_path):
        if path.exists():
            kept = {_key(line): line for line in read_lines(path) if line["step"] <= step}
            text = "".join(json.dumps(line) + "\n" for line in kept.values())
            if text.encode() != path.read_bytes():
                write_whole(path, text)


def _key(line: dict[str, object]) -> tuple[object, object]:
    return line["step"], line.get("task")
