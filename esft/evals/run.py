"""`esft eval` as a library function: what is asked, and what it came to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from esft.errors import EsftError, RecipeError, RunError
from esft.evals.chains import ends_of, matrix_of
from esft.evals.checkpoints import Checkpoints
from esft.evals.largest import PERCENTS, measure_largest
from esft.evals.measure import Measurer
from esft.evals.measured import MeasuredTask, task_result
from esft.evals.request import EvalRequest
from esft.evals.results import (
    EvalRecord,
    FailedTask,
    NoiseFloor,
    StepDrift,
)
from esft.evals.steps import QuantizedSteps, RunSteps, Steps
from esft.files import write_whole
from esft.models.load import load_model
from esft.recipe.priors import PriorSpec, parse_prior_line
from esft.recipe.settings import Prior, Recipe, TaskSettings
from esft.rollout.batches import Batches
from esft.rollout.typed import json_text
from esft.runs.records import RecordedScore, scores
from esft.stats.forgetting import Forgetting
from esft.tuning.lead import LOADING_S, require_alike
from esft.tuning.ranks import Ranks
from esft.tuning.rebuild import RebuildOptions, Source, find_source, step_of
from esft.tuning.run_info import software
from esft.tuning.tasks import (
    EvalTask,
    eval_task,
    refuse_target,
    rows_hash,
    rows_of,
    task_and_rows,
)
from esft.tuning.watcher import Watcher


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """What it came to."""

    record: EvalRecord
    measured: list[MeasuredTask]  # the tasks of the record, row by row
    path: str | None  # where `write_eval` puts the record; None where there is no run folder


def write_eval(result: EvalResult) -> None:
    """Write the record of an evaluation; RunError if that cannot be."""
    write_whole(Path(result.path), json_text(result.record, indent=1) + "\n")


@dataclass(frozen=True)
class OpenEval:
    """What an evaluation works with, loaded."""

    source: Source | None
    steps: Steps
    tasks: list[MeasuredTask]
    failed: tuple[FailedTask, ...]
    end: int
    """The step whose model counts: the last, or of a run that kept an earlier one, that."""

    def facts(self) -> dict[str, str]:
        """Return, in words, what must be the same on all ranks."""
        version = self.steps.version(self.steps.numbers[-1])
        facts = {"base model": version.base, "step": version.journal, **version.parts}
        facts |= {f"model {one.step}": one.weights for one in self.steps.models}
        for one in self.tasks:
            rows = one.task.encoded
            facts[f"rows {one.task.name}"] = f"{len(rows)} of {rows_hash(row.row for row in rows)}"
        return facts


def open_eval(request: EvalRequest, watcher: Watcher) -> OpenEval:
    """Load what is to be measured; EsftError as `run_eval`."""
    request.refuse_what_does_not_go_together()
    source = None
    if request.run is not None or not request.models:
        source = find_source(request.run)
    specs = _specs(request, None if source is None else source.recipe)
    steps = _steps(request, source, watcher)
    end = steps.numbers[-1] if source is None or request.at is not None else source.ended
    if request.layers and end == 0:
        raise RecipeError(
            "--layers is given for step 0, expected a later one: the base model has no changes",
            hint="name a later step: esft eval RUN --layers --at STEP",
        )
    tasks, failed = _tasks(request, source, specs, steps)
    if isinstance(steps, Checkpoints):
        steps.refuse_other_tokens([measured.task for measured in tasks])
    for measured in tasks:
        if measured.task.note is not None:
            watcher.notice(measured.task.note)
    if request.load is not None:
        steps = QuantizedSteps(steps, request.load, watcher)
    return OpenEval(source, steps, tasks, failed, end)


def run_eval(request: EvalRequest, watcher: Watcher, ranks: Ranks | None = None) -> EvalResult:
    """Measure prior tasks, and the target of a run, on a base model and on steps of a run, or on
    models beside it.

    Nothing is written but what was measured, to the cache: see `write_eval`. The other processes of
    a torchrun, `ranks`, do `follow_eval`.

    Raises:
        EsftError: if run, step or model is not there, or no task can be measured.
    """
    if ranks is not None:
        ranks.send("facts")
        require_alike(software(), ranks.replies())
        ranks.send("open", request=vars(request), threads=torch.get_num_threads())
    opened = open_eval(request, watcher)
    if ranks is not None:
        require_alike(opened.facts(), ranks.replies(LOADING_S))
    source, steps, tasks = opened.source, opened.steps, opened.tasks
    run = None if source is None else source.run
    kept = None if run is None or request.at is not None else run.info.peak
    chain = () if source is None else ends_of(source.recipe, source.record.last)
    drift, floor = _measure(request, opened, Measurer(steps, watcher, ranks), watcher, chain)
    record = EvalRecord(
        model=steps.loaded.id,
        run=None if run is None else str(run.path),
        base=steps.version(0).base,
        journal=None if source is None else source.record.checksum,
        margin=request.margin,
        load=request.load,
        steps=steps.numbers,
        tasks=tuple(task_result(task, request.margin, kept) for task in tasks),
        drift=tuple(drift),
        noise_floor=floor,
        failed=opened.failed,
        models=steps.models,
        samples=request.samples,
        temperature=request.drawn_at,
        forgetting=_forgetting(source, chain, tasks),
    )
    if run is None:
        return EvalResult(record=record, measured=tasks, path=None)
    path = run.path / ("eval.json" if record.load is None else f"eval-{record.load}.json")
    return EvalResult(record=record, measured=tasks, path=str(path))


def _forgetting(
    source: Source | None, ends: Sequence[int], tasks: Sequence[MeasuredTask]
) -> Forgetting | None:
    """Return the matrix of a chain; None of anything else."""
    if not ends:
        return None
    right = {}
    for measured in tasks:
        by_step = zip(measured.steps, measured.evaluations, strict=True)
        right[measured.task.name] = {
            step: [float(row.correct) for row in evaluation.results]
            for step, evaluation in by_step
            if all(row.correct is not None for row in evaluation.results)
        }
    return matrix_of(source.recipe, ends, right)


def _specs(request: EvalRequest, recipe: Recipe | None) -> list[PriorSpec]:
    if recipe is None and not request.priors:
        raise RecipeError(
            "no prior task is named, expected at least one",
            hint="--prior tasks.txt, a task a line, or --prior gsm8k:100",
        )
    specs = [parse_prior_line(line) for line in request.priors or recipe.prior.tasks]
    for target in () if recipe is None else recipe.targets:
        refuse_target(specs, target)
    return specs


def _steps(request: EvalRequest, source: Source | None, watcher: Watcher) -> Steps:
    if source is None:
        if request.at is not None:
            raise RecipeError(
                f"--at is {request.at}, expected none: a model that is named has no steps",
                hint="name the run: esft eval RUN --at STEPS",
            )
        how = {"dtype": request.dtype, "device": request.device}
        if request.base is not None:
            names = request.base, *request.models
            return Checkpoints(names, watcher, scores_alone=request.load is not None, **how)
        watcher.phase(f"loading {request.models[0]}")
        return Steps(load_model(request.models[0], **how))
    if request.dtype is not None:
        raise RecipeError(
            f"--dtype is {request.dtype}, expected none: a run has a dtype of its own",
            hint="esft export --dtype converts a step's model; measure that with --model",
        )
    asked = "last" if request.at is None else request.at
    numbers = {0, *(step_of(source, at.strip()) for at in asked.split(","))}
    if request.at is None and request.load is None:
        numbers |= {score.step for score in _recorded(source)}
        numbers |= {*ends_of(source.recipe, source.record.last)}
    options = RebuildOptions(model=next(iter(request.models), None), device=request.device)
    return RunSteps(source, tuple(sorted(numbers)), watcher, options)


def _recorded(source: Source | None) -> list[RecordedScore]:
    """Return what a run measured on its way, up to the last step of its journal."""
    if source is None or source.run is None:
        return []
    return [score for score in scores(source.run.path) if score.step <= source.record.last]


def _tasks(
    request: EvalRequest, source: Source | None, priors: list[PriorSpec], steps: Steps
) -> tuple[list[MeasuredTask], tuple[FailedTask, ...]]:
    """Return the tasks that can be measured, and those that cannot; RunError if none can."""
    run, recipe = (None, None) if source is None else (source.run, source.recipe)
    rows = request.rows or (Prior() if recipe is None else recipe.prior).rows
    data_dir = request.data_dir or (None if recipe is None else recipe.task.data_dir)
    batch = None if run is None else run.info.batch
    tasks, failed = [], []
    targets = () if recipe is None else recipe.targets
    for wanted in (*targets[-1:], *targets[:-1], *priors):
        try:
            if isinstance(wanted, TaskSettings):
                task, split = task_and_rows(wanted)
                role, chosen = "target" if wanted is targets[-1] else "prior", split.holdout
            else:
                role, (task, chosen) = "prior", rows_of(wanted, rows, data_dir)
            ready = eval_task(role, task, wanted, chosen, steps.loaded, Batches(batch))
            tasks.append(MeasuredTask(task=ready, steps=_steps_of(ready, request, source, steps)))
        except EsftError as error:
            failed.append(FailedTask(task=wanted.name, error=str(error), hint=error.hint))
    if not tasks:
        first = failed[0]
        raise RunError(f"no task can be measured: {first.task}: {first.error}", hint=first.hint)
    return tasks, tuple(failed)


def _steps_of(
    task: EvalTask, request: EvalRequest, source: Source | None, steps: Steps
) -> tuple[int, ...]:
    """Return the steps to measure a task at: those asked for, else the base, the last, and where
    the run measured the same rows of it."""
    if request.at is not None or source is None:
        return steps.numbers
    wanted = {0, source.ended, *ends_of(source.recipe, source.record.last)}
    kind = "holdout" if task.role == "target" else f"prior task {task.name}"
    rows = None if source is None or source.run is None else source.run.info.rows.get(kind)
    if rows is not None and rows.hash == rows_hash(one.row for one in task.encoded):
        wanted |= {score.step for score in _recorded(source) if score.task == task.name}
    return tuple(step for step in steps.numbers if step in wanted)


def _measure(
    request: EvalRequest,
    opened: OpenEval,
    measurer: Measurer,
    watcher: Watcher,
    ends: Sequence[int],
) -> tuple[list[StepDrift], NoiseFloor | None]:
    """Measure every step; the tasks keep what is theirs. Of a chain, drift and KL divergences at
    the `ends` of its stages."""
    steps, tasks, floor = opened.steps, opened.tasks, None
    if request.noise_floor and steps.loaded.dtype != torch.float32:
        floor = measurer.noise_floor([measured.task for measured in tasks])
    drift = []
    last = request.at is None and isinstance(steps, RunSteps)
    far = {opened.end, *ends} if last else steps.numbers
    for step in steps.numbers:
        for measured in tasks:
            if step in measured.steps:
                measured.evaluations.append(measurer.evaluation(step, measured.task))
        if request.samples is not None and (step == 0 or step in far):
            for measured in tasks:
                if measured.task.rollout.scoring == "generate" and step in measured.steps:
                    sampled = request.sampling(measured.task)
                    measured.samples[step] = measurer.evaluation(step, sampled)
        if steps.has_drift(step) and step in far:
            told = PERCENTS if request.layers and step == opened.end else ()
            drift.append(measurer.drift(step, told))
            if told:
                measure_largest(steps, drift[-1], tasks, watcher)
        if steps.has_kl(step) and step in far and request.kl_prompts:
            priors = [one for one in tasks if one.task.role == "prior"]
            amount = request.kl_prompts, request.kl_tokens
            pairs = measurer.kls(step, [one.task for one in priors], *amount)
            for measured, pair in zip(priors, pairs, strict=True):
                measured.kl.append(pair)
    return drift, floor
