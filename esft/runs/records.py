"""What a run folder has on record, read back without loading torch."""

import json
import math
from pathlib import Path

from esft.errors import RunError
from esft.files import slug, write_whole
from esft.rollout.results import Evaluation, RowResult, number

RUN_FORMAT = 3
"""Of run.json: 3 since a row can ask several questions; 2 since runs can be resumed."""


def read_info(run: Path) -> dict[str, object]:
    """Return the content of run.json; RunError if it cannot be read, or is of another format."""
    file = run / "run.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or error}",
            hint="name the folder of a run; esft runs lists them. The journal alone rebuilds its "
            "model too: esft replay FILE --out DIR",
        ) from error
    version = info.get("format") if isinstance(info, dict) else None
    if version != RUN_FORMAT:
        older = isinstance(version, int) and version < RUN_FORMAT
        raise RunError(
            f"{file} has format {version!r}, expected {RUN_FORMAT}",
            hint="an older esft made this run; its journal still rebuilds its model: "
            f"esft replay {run / 'journal.jsonl'} --out DIR"
            if older
            else "a newer esft may have written it: pip install -U esft",
        )
    return info


def read_lines(path: Path) -> list[dict]:
    """Return the records of a file of JSON lines; none where it is not there.

    A last one that was cut off does not count; RunError if a whole line is not a record.
    """
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    records = []
    for at, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
            problem = None if isinstance(records[-1], dict) else "is not a record"
        except ValueError as error:
            problem = f"is not JSON: {error}"
        if problem is not None:
            raise RunError(
                f"{path}: line {at} {problem}", hint="take another copy of it, or move it away"
            )
    return records


def finite(record: dict[str, object]) -> dict[str, object]:
    """Return a flat record with None for NaN and infinities, which JSON lacks."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


def metrics(run: Path) -> list[dict[str, object]]:
    """Return the lines of metrics.jsonl: one a step."""
    return read_lines(run / "metrics.jsonl")


def summaries(run: Path) -> list[dict[str, object]]:
    """Return the lines of evals.jsonl: one an evaluation, in the order they were made."""
    return read_lines(run / "evals.jsonl")


def best_step(summaries: list[dict[str, object]]) -> int | None:
    """Return the first step with the target's best holdout reward; None where none is finite."""
    rewards = {
        summary["step"]: number(summary["reward"])
        for summary in summaries
        if summary["role"] == "target" and not math.isnan(number(summary["reward"]))
    }
    return max(rewards, key=rewards.get, default=None)


def rows_path(run: Path, task: str, step: int) -> Path:
    """Return where the rows behind an evaluation are."""
    return run / "evals" / f"{slug(task)}-{step}.jsonl"


def evaluation(run: Path, summary: dict[str, object]) -> Evaluation:
    """Return an evaluation with its rows; RunError if they are not there."""
    file = rows_path(run, summary["task"], summary["step"])
    rows = read_lines(file)
    if len(rows) != summary["n"]:
        raise RunError(
            f"{file} has {len(rows)} rows, expected {summary['n']}, as evals.jsonl says",
            hint="take the file back; or move evals.jsonl away, and they are evaluated again",
        )
    return Evaluation(tuple(RowResult.from_record(row) for row in rows))


def drop_after(run: Path, step: int) -> None:
    """Remove what is recorded of steps after `step`, and lines that were cut off half-way."""
    for path in (run / "metrics.jsonl", run / "evals.jsonl"):
        if path.exists():
            lines = [line for line in read_lines(path) if line["step"] <= step]
            # A line that is there twice counts once: the last.
            kept = {(line["step"], line.get("task")): line for line in lines}
            text = "".join(json.dumps(line) + "\n" for line in kept.values())
            if text.encode() != path.read_bytes():
                write_whole(path, text)
