"""From a run folder to the numbers of its report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from esft.engine.journal_read import JournalRecord, read_journal
from esft.errors import EsftError
from esft.evals.results import (
    StepDrift,
    StepScore,
    TaskResult,
    comparison_of,
    from_json,
    read_eval,
)
from esft.files import slug
from esft.report.numbers import RunNumbers
from esft.report.progress import decay_of, progress_of
from esft.runs.records import read_info, read_lines
from esft.stats.verdict import diagnose

T = TypeVar("T")

_Rows = dict[tuple[str, str], tuple[float, float]]
"""Id and key of a row to whether it is right (0 or 1) and its reward; NaN is an overflow."""


def read_run(path: Path) -> RunNumbers:
    """Return the numbers of a run; what cannot be read of it is left out, and a note says so.

    Raises:
        RunError: if run.json cannot be read.
    """
    info, notes = read_info(path), []
    model, settings = info.get("model") or {}, info.get("settings") or {}
    numel = model.get("tuned_parameters")
    record = _noted(notes, None, lambda: read_journal(path / "journal.jsonl"))
    progress = _noted(notes, (), lambda: progress_of(path, record, numel))
    recorded = _noted(notes, [], lambda: _recorded_tasks(path))
    measured, drift = _noted(notes, ([], ()), lambda: _evaluated(path, record, notes))
    return RunNumbers(
        name=path.resolve().name,
        path=str(path),
        state=str(info.get("state", "unknown")),
        started=info.get("started"),
        model=str(model.get("id", "unknown")),
        base=model.get("base"),
        dtype=model.get("dtype"),
        device=info.get("device"),
        parameters=numel,
        steps=max((step.step for step in progress), default=0) if record is None else record.last,
        planned=settings.get("search.steps"),
        settings=settings,
        tasks=tuple(_merged(recorded, measured, notes)),
        progress=progress,
        decay=_noted(notes, None, lambda: decay_of(settings, progress)),
        drift=drift,
        notes=tuple(notes),
    )


def named_apart(runs: list[RunNumbers]) -> list[RunNumbers]:
    """Return runs under names that differ: where folders are called alike, their paths."""
    names = [run.name for run in runs]
    return [replace(run, name=run.path) if names.count(run.name) > 1 else run for run in runs]


def _noted(notes: list[str], instead: T, read: Callable[[], T]) -> T:
    """Return what `read` does; `instead`, with a note, where the files are not as written."""
    try:
        return read()
    except EsftError as error:
        notes.append(str(error))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        notes.append(f"left out, since not as a run is written: {type(error).__name__}: {error}")
    return instead


def _recorded_tasks(path: Path) -> list[TaskResult]:
    """Return the tasks of evals.jsonl, each compared with its base row by row."""
    tasks: dict[tuple[str, str], dict[int, StepScore]] = {}
    for line in read_lines(path / "evals.jsonl"):
        scores = tasks.setdefault((line["role"], line["task"]), {})
        scores[line["step"]] = from_json(StepScore, line)
    return [_recorded_task(path, role, name, scores) for (role, name), scores in tasks.items()]


def _recorded_task(path: Path, role: str, name: str, scores: dict[int, StepScore]) -> TaskResult:
    rows = {step: _rows(path, name, scores[step]) for step in sorted(scores)}
    base = rows.pop(0, {})
    later = {step: row for step, row in rows.items() if base and list(base) == list(row)}
    right = {step: [correct for correct, _ in row.values()] for step, row in later.items()}
    judged = role == "prior" and bool(later)
    return TaskResult(
        name=name,
        role=role,
        evaluations=tuple(scores[step] for step in sorted(scores)),
        comparisons=tuple(
            comparison_of(step, list(base.values()), list(row.values()), [id for id, _ in base])
            for step, row in later.items()
        ),
        verdict=diagnose([correct for correct, _ in base.values()], right) if judged else None,
    )


def _rows(path: Path, name: str, score: StepScore) -> _Rows:
    """Return the rows of an evaluation; none where they are not all there."""
    lines = read_lines(path / "evals" / f"{slug(name)}-{score.step}.jsonl")
    if len(lines) != score.n or any(line["correct"] is None for line in lines):
        return {}
    return {
        (line["id"], line["key"]): (float(line["correct"]), from_json(float, line["reward"]))
        for line in lines
    }


def _evaluated(
    path: Path, record: JournalRecord | None, notes: list[str]
) -> tuple[list[TaskResult], tuple[StepDrift, ...]]:
    """Return tasks and drift of eval.json; none where it is not of this run's journal."""
    result = read_eval(path / "eval.json")
    if result is None:
        return [], ()
    if record is None or result.journal not in (*record.checksums, record.checksum):
        notes.append("eval.json is ignored: it is of another journal than this run's. Make it anew")
        return [], ()
    if result.journal != record.checksum:
        at = record.checksums.index(result.journal)
        notes.append(f"eval.json was made at step {at}; the run went on to step {record.last}")
    if result.load is not None:
        notes.append(f"esft eval scored the models as loaded in {result.load}")
    if result.noise_floor is not None:
        notes.append(f"Noise floor: {result.noise_floor.text}")
    notes += [f"{failed.task} could not be evaluated: {failed.error}" for failed in result.failed]
    return list(result.tasks), result.drift


def _merged(
    recorded: list[TaskResult], measured: list[TaskResult], notes: list[str]
) -> list[TaskResult]:
    """Return each task once, the targets first: from eval.json where it has it."""
    tasks = {(task.role, task.name): task for task in recorded}
    others = []
    for task in measured:
        own = tasks.get((task.role, task.name))
        if own is not None and not _of_the_same_rows(task, own):
            others.append(task.name)
            own = None
        tasks[task.role, task.name] = task if own is None else _joined(task, own)
    if others:
        notes.append(
            f"{', '.join(others)}: figures of esft eval, whose rows are not those of the run's own "
            "evaluations"
        )
    return sorted(tasks.values(), key=lambda task: task.role != "target")


def _of_the_same_rows(measured: TaskResult, recorded: TaskResult) -> bool:
    """Return whether two have steps in common, and the same figures there."""
    ours = {score.step: (score.n, score.accuracy) for score in recorded.evaluations}
    shared = [score for score in measured.evaluations if score.step in ours]
    return bool(shared) and all((score.n, score.accuracy) == ours[score.step] for score in shared)


def _joined(measured: TaskResult, recorded: TaskResult) -> TaskResult:
    """Return a task of eval.json with the steps that the run evaluated besides."""

    def union(first: tuple, second: tuple) -> tuple:
        by_step = {part.step: part for part in (*second, *first)}
        return tuple(by_step[step] for step in sorted(by_step))

    return replace(
        measured,
        evaluations=union(measured.evaluations, recorded.evaluations),
        comparisons=union(measured.comparisons, recorded.comparisons),
        verdict=measured.verdict or recorded.verdict,
    )
