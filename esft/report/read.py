"""From a run folder to the numbers of its report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from esft.engine.journal_read import JournalRecord, read_journal
from esft.errors import EsftError
from esft.evals.results import EvalRecord, StepDrift, TaskResult, read_eval
from esft.report.numbers import RunNumbers
from esft.report.progress import decay_of, progress_of
from esft.report.recorded_tasks import joined, recorded_tasks
from esft.runs.records import read_info

T = TypeVar("T")


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
    recorded = _noted(notes, [], lambda: recorded_tasks(path))
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


def _evaluated(
    path: Path, record: JournalRecord | None, notes: list[str]
) -> tuple[list[TaskResult], tuple[StepDrift, ...]]:
    """Return tasks and drift of eval.json; none where it is not of this run's journal."""
    found = read_eval(path / "eval.json")
    if found is None:
        return [], ()
    known = () if record is None else (*record.checksums, record.checksum)
    if found.journal not in known:
        notes.append("eval.json is ignored: it is of another journal than this run's. Make it anew")
        return [], ()
    notes += _remarks(found, record)
    return list(found.tasks), found.drift


def _remarks(found: EvalRecord, record: JournalRecord) -> list[str]:
    remarks = []
    if found.journal != record.checksum:
        at = record.checksums.index(found.journal)
        remarks.append(f"eval.json was made at step {at}; the run went on to step {record.last}")
    if found.load is not None:
        remarks.append(f"esft eval scored the models as loaded in {found.load}")
    if found.noise_floor is not None:
        remarks.append(f"Noise floor: {found.noise_floor.text}")
    remarks += [f"{failed.task} could not be evaluated: {failed.error}" for failed in found.failed]
    return remarks


def _merged(
    recorded: list[TaskResult], measured: list[TaskResult], notes: list[str]
) -> list[TaskResult]:
    """Return each task once, the targets first: from eval.json where it has it."""
    found = {(task.role, task.name): task for task in recorded}
    others = []
    for task in measured:
        key = (task.role, task.name)
        both = joined(task, found[key]) if key in found else task
        if both is None:
            others.append(task.name)
        found[key] = both or task
    if others:
        notes.append(
            f"{', '.join(others)}: figures of esft eval, whose rows are not those of the run's own "
            "evaluations"
        )
    return sorted(found.values(), key=lambda task: task.role != "target")
