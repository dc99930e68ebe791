"""`esft eval` as a library function: what is asked, and what it came to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from esft.errors import RecipeError
from esft.evals.distances import Distances
from esft.evals.results import (
    EvalRecord,
    NoiseFloor,
    StepScore,
    TaskResult,
    comparison_of,
    from_json,
    to_json,
)
from esft.evals.steps import QuantizedSteps, RunSteps, Steps
from esft.evals.tasks import Evaluator, MeasuredTask, eval_tasks
from esft.files import write_whole
from esft.models.load import load_model
from esft.recipe.priors import PriorSpec, parse_prior_line
from esft.recipe.settings import Recipe
from esft.stats.verdict import diagnose
from esft.tuning.rebuild import RebuildOptions, Source, find_source, step_of
from esft.tuning.tasks import EvalTask, refuse_target, rows_hash
from esft.tuning.watcher import Watcher


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What is to be measured."""

    run: str | None = None
    """A run or a journal; None is the newest run, or, with a model, none."""
    model: str | None = None
    """A model to measure by itself; with a run, its base model."""
    priors: tuple[str, ...] = ()
    """Prior tasks, as `parse_prior_line` reads them; none takes those of the run."""
    at: str = "last"
    """Steps, separated by commas; the base is always measured."""
    rows: int | None = None
    """Of a prior task that names no number; None takes prior.rows of the run, else 200."""
    dtype: str | None = None
    device: str | None = None
    data_dir: str | None = None
    margin: float = 0.03
    """A change that matters to no one is smaller than this."""
    load: str | None = None
    """None measures the models as they are, else as they are loaded: "nf4" or "int8"."""
    kl_prompts: int = 50
    kl_tokens: int = 256
    noise_floor: bool = True


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """What it came to."""

    record: EvalRecord
    measured: tuple[MeasuredTask, ...]
    """The tasks of the record, row by row."""
    path: str | None  # of eval.json; None where there is no run folder


def run_eval(request: EvalRequest, watcher: Watcher) -> EvalResult:
    """Measure prior tasks, and the target of a run, on the base model and on steps of a run.

    Raises:
        EsftError: if run, step or model is not there, or no task can be measured.
    """
    source = None
    if request.run is not None or request.model is None:
        source = find_source(request.run)
    run, recipe = (None, None) if source is None else (source.run, source.recipe)
    specs = _specs(request, recipe)
    steps = _steps(request, source, watcher)
    tasks, failed = eval_tasks(
        steps.loaded,
        recipe,
        specs,
        rows=request.rows,
        data_dir=request.data_dir,
        batch=None if run is None else run.info["batches"][-1][1],
    )
    distances = None
    if isinstance(steps, RunSteps):
        distances = Distances(source, steps, tasks, request.kl_prompts, request.kl_tokens, watcher)
    measured, floor = _measure(steps, tasks, distances, request.noise_floor, watcher)
    record = EvalRecord(
        model=steps.loaded.id,
        run=None if run is None else str(run.path),
        base=steps.version(0).base,
        journal=None if source is None else source.record.checksum,
        margin=request.margin,
        load=request.load,
        steps=steps.numbers,
        tasks=tuple(task_result(one, steps.numbers, request.margin, distances) for one in measured),
        drift=() if distances is None else tuple(distances.drift),
        noise_floor=floor,
        failed=failed,
    )
    if run is None:
        return EvalResult(record=record, measured=measured, path=None)
    path = run.path / ("eval.json" if record.load is None else f"eval-{record.load}.json")
    write_whole(path, json.dumps(to_json(record), indent=1) + "\n")
    return EvalResult(record=record, measured=measured, path=str(path))


def task_result(
    measured: MeasuredTask, steps: Sequence[int], margin: float, distances: Distances | None = None
) -> TaskResult:
    """Return the figures of one task: evaluations, comparisons with the base, verdict, KL."""
    task, ids = measured.task, [one.row.id for one in measured.task.encoded]
    base, *later = [
        [(float(bool(result.correct)), float(result.reward)) for result in evaluation.results]
        for evaluation in measured.evaluations
    ]
    correct = [[right for right, _ in results] for results in (base, *later)]
    verdict = None
    if later:
        verdict = diagnose(correct[0], dict(zip(steps[1:], correct[1:], strict=True)), margin)
    return TaskResult(
        name=task.name,
        role=task.role,
        evaluations=tuple(
            from_json(StepScore, {"step": step} | to_json(evaluation.summary()))
            for step, evaluation in zip(steps, measured.evaluations, strict=True)
        ),
        comparisons=tuple(
            comparison_of(step, base, now, ids) for step, now in zip(steps[1:], later, strict=True)
        ),
        verdict=verdict,
        kl=() if distances is None else tuple(distances.kl[task.name]),
        scoring=task.rollout.scoring,
        hash=rows_hash(one.row for one in task.encoded),
    )


def _specs(request: EvalRequest, recipe: Recipe | None) -> list[PriorSpec]:
    lines = request.priors or (() if recipe is None else recipe.prior.tasks)
    if not lines and recipe is None:
        raise RecipeError(
            "no prior task is named, expected at least one",
            hint="--prior tasks.txt, a task a line, or --prior gsm8k:100",
        )
    specs = [parse_prior_line(line) for line in lines]
    if recipe is not None:
        refuse_target(specs, recipe.task.name)
    return specs


def _steps(request: EvalRequest, source: Source | None, watcher: Watcher) -> Steps:
    if source is None:
        if request.at != "last":
            raise RecipeError(
                f"--at is {request.at}, expected none: a model by itself has no steps",
                hint="name the run: esft eval RUN --at STEPS",
            )
        watcher.phase(f"loading {request.model}")
        steps = Steps(load_model(request.model, dtype=request.dtype, device=request.device))
    else:
        if request.dtype is not None:
            raise RecipeError(
                f"--dtype is {request.dtype}, expected none: a run has a dtype of its own",
                hint="esft export --dtype converts a step's model; measure that with --model",
            )
        numbers = {0, *(step_of(source, at.strip()) for at in request.at.split(","))}
        options = RebuildOptions(model=request.model, device=request.device)
        steps = RunSteps(source, tuple(sorted(numbers)), watcher, options)
    return steps if request.load is None else QuantizedSteps(steps, request.load, watcher)


def _measure(
    steps: Steps,
    tasks: Sequence[EvalTask],
    distances: Distances | None,
    noise_floor: bool,
    watcher: Watcher,
) -> tuple[tuple[MeasuredTask, ...], NoiseFloor | None]:
    evaluator = Evaluator(steps, watcher)
    floor = None
    if noise_floor and steps.loaded.dtype != torch.float32:
        floor = evaluator.noise_floor(tasks)
    by_step = []
    for step in steps.numbers:
        by_step.append([evaluator.evaluation(step, task) for task in tasks])
        if distances is not None and step > 0:
            distances.measure(step)
    by_task = zip(*by_step, strict=True)
    measured = [
        MeasuredTask(task=task, evaluations=evaluations)
        for task, evaluations in zip(tasks, by_task, strict=True)
    ]
    return tuple(measured), floor
