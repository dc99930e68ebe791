"""From a run folder to the numbers of its report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from esft.engine.journal_read import JournalRecord
from esft.errors import EsftError
from esft.evals.chains import ends_of, matrix_of
from esft.evals.results import StepDrift, TaskResult, compared, read_eval, with_knowing
from esft.recipe.stages import tuned_on
from esft.recipe.toml import load_recipe
from esft.report.answers import Rows, TaskAnswers, answers_of
from esft.report.numbers import RunNumbers, decay_of, noise_of, progress_of, signal_of
from esft.runs.budget import Budget
from esft.runs.differences import differences
from esft.runs.folder import RunFolder
from esft.runs.listing import state_of
from esft.runs.records import (
    RecordedRow,
    RecordedScore,
    read_info,
    read_lines,
    read_probe,
    rows_path,
    scores,
)
from esft.runs.steps import sum_of_times
from esft.stats.forgetting import Forgetting

T = TypeVar("T")


def read_run(path: Path) -> RunNumbers:
    """Return the numbers of a run; what cannot be read but run.json is left out, with a note."""
    info, notes = read_info(path), []
    model, settings, numel = info.model, info.settings, info.model.tuned_parameters
    record = _noted(notes, None, RunFolder(path, info).read_journal)
    progress = _noted(notes, (), lambda: progress_of(path, record, numel))
    recorded, answers = _noted(notes, ([], ()), lambda: recorded_tasks(path, info.peak))
    awd = settings["anchor.awd"]
    if record is not None and record.backs:
        limits, awd = Budget(**record.header.get("budget", {})), record.backs[-1].awd
        notes += [limits.told(back) for back in record.backs]
        if info.peak is not None:
            notes.append(f"The model is that of step {info.peak}, the best within the budget")
    if settings["search.screen_rows"]:
        notes.append("Rows that told members nothing were left out: rewards are of the rows seen")
    forgetting = _noted(notes, None, lambda: recorded_forgetting(path))
    measured, drift = _noted(notes, ([], ()), lambda: _evaluated(path, record, notes))
    return RunNumbers(
        name=path.resolve().name,
        label=path.resolve().name,
        path=str(path),
        state=state_of(path, info),
        started=info.started,
        task=tuned_on(settings),
        model=model.id,
        base=model.base,
        dtype=model.dtype,
        device=info.device,
        parameters=numel,
        steps=max((step.step for step in progress), default=0) if record is None else record.last,
        planned=settings["search.steps"],
        settings=settings,
        tasks=tuple(_merged(recorded, measured, notes)),
        progress=progress,
        times=sum_of_times(step.times for step in progress),
        # Stages may have decays of their own.
        decay=None if forgetting else decay_of({**settings, "anchor.awd": awd}, progress),
        noise=noise_of(progress),
        signal=signal_of(progress),
        probe=_noted(notes, None, lambda: read_probe(path)),
        drift=drift,
        forgetting=forgetting,
        answers=answers,
        notes=tuple(notes),
    )


def named_apart(runs: list[RunNumbers]) -> list[RunNumbers]:
    """Return runs under labels that differ: what sets them apart in words; where that is nothing,
    or the same for two, their names; where folders are called alike, their paths."""
    names = [run.name for run in runs]
    words = differences([run.settings for run in runs])
    named = []
    for run, label in zip(runs, words, strict=True):
        name = run.path if names.count(run.name) > 1 else run.name
        label = label if label and words.count(label) == 1 else name
        named.append(replace(run, name=name, label=label))
    return named


def _noted(notes: list[str], instead: T, read: Callable[[], T]) -> T:
    """Return what `read` does; `instead`, with a note, where the files are not as written."""
    try:
        return read()
    except EsftError as error:
        notes.append(str(error))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        notes.append(f"left out, since not as a run is written: {type(error).__name__}: {error}")
    return instead


def recorded_tasks(
    path: Path, kept: int | None
) -> tuple[list[TaskResult], tuple[TaskAnswers, ...]]:
    """Return the tasks of evals.jsonl, each compared with its base row by row, and the answers;
    `kept` as `TaskResult` has it."""
    tasks: dict[tuple[str, str], dict[int, RecordedScore]] = {}
    for score in scores(path):
        tasks.setdefault((score.role, score.task), {})[score.step] = score
    recorded, answers = [], []
    for (role, name), by_step in tasks.items():
        rows = {step: _rows(path, by_step[step]) for step in sorted(by_step)}
        base, last = rows.get(0, {}), kept if kept in rows else max(rows)
        # Only steps whose rows are those of the base, all of them.
        same = {
            step: [(float(row.correct), row.reward) for row in of.values()]
            for step, of in rows.items()
            if of and [*of] == [*base]
        }
        evaluations = tuple(by_step[step] for step in rows)
        task = TaskResult(name=name, role=role, evaluations=evaluations, kept=kept)
        task = compared(task, same, [id for id, _ in base])
        recorded.append(with_knowing(task, {step: [*rows[step].values()] for step in same}))
        answers.append(answers_of(by_step[last], base, rows[last]) if last else None)
    answers.sort(key=lambda of: of is not None and of.role != "target")
    return recorded, tuple(filter(None, answers))


def recorded_forgetting(path: Path) -> Forgetting | None:
    """Return the forgetting matrix of a run, from its own evaluations; None if it is no chain."""
    recipe = load_recipe(None, read_info(path).settings)
    right: dict[str, dict[int, list[float]]] = {}
    recorded = scores(path) if recipe.stages else []
    ends = ends_of(recipe, max((score.step for score in recorded), default=0))
    base: dict[str, list[tuple[str, str]]] = {}
    for score in recorded:
        rows = _rows(path, score) if score.step in ends else {}
        if rows and base.setdefault(score.task, [*rows]) == [*rows]:
            of_task = right.setdefault(score.task, {})
            of_task[score.step] = [float(row.correct) for row in rows.values()]
    return matrix_of(recipe, ends, right)


def _rows(path: Path, score: RecordedScore) -> Rows:
    """Return the rows of an evaluation; none where not all are there, each right or wrong."""
    rows = read_lines(rows_path(path, score), RecordedRow)
    if len(rows) != score.n or any(row.correct is None for row in rows):
        return {}
    return {(row.id, row.key): row for row in rows}


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
    if result.samples is not None:
        drawn = f"{result.samples} to each row at temperature {result.temperature:g}"
        notes.append(f"Answers were drawn for pass@k: {drawn}")
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
        if own is not None:
            # Of the same rows, if they have steps in common and the same figures there.
            figures = {score.step: (score.n, score.accuracy) for score in own.evaluations}
            shared = [score for score in task.evaluations if score.step in figures]
            if shared and all((one.n, one.accuracy) == figures[one.step] for one in shared):
                task = replace(
                    task,
                    evaluations=_union(task.evaluations, own.evaluations),
                    comparisons=_union(task.comparisons, own.comparisons),
                    verdict=task.verdict or own.verdict,
                )
            else:
                others.append(task.name)
        tasks[task.role, task.name] = task
    if others:
        notes.append(
            f"{', '.join(others)}: figures of esft eval, whose rows are not those of the run's own "
            "evaluations"
        )
    return sorted(tasks.values(), key=lambda task: task.role != "target")


def _union(first: tuple, second: tuple) -> tuple:
    """Return the parts of both by step; where both have one, that of the first."""
    by_step = {part.step: part for part in (*second, *first)}
    return tuple(by_step[step] for step in sorted(by_step))
