"""`esft eval` from what is asked to what it came to."""

import json
from dataclasses import dataclass

from esft.errors import EsftError, RecipeError, RunError
from esft.evals.distances import Distances
from esft.evals.evaluator import Evaluator, Measured
from esft.evals.models import Models, QuantizedModels, RunModels, one_model
from esft.evals.record import task_result
from esft.evals.results import EvalRecord, FailedTask, to_json
from esft.evals.subjects import Subject, prior_of, target_of
from esft.files import write_whole
from esft.recipe.paths import with_recorded_paths
from esft.recipe.priors import PriorSpec, parse_prior_line
from esft.recipe.settings import Prior, Recipe
from esft.recipe.toml import load_recipe
from esft.rollout.batches import Batches
from esft.rollout.cache import EvaluationCache
from esft.tuning.prior_tasks import refuse_target, rows_of
from esft.tuning.rebuild import Source, find_source, step_of
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
    measured: tuple[Measured, ...]
    """The tasks of the record with their rows."""
    path: str | None
    """Of eval.json; None where there is no run folder."""


def run_eval(request: EvalRequest, watcher: Watcher) -> EvalResult:
    """Measure prior tasks, and the target of a run, on the base model and on steps of a run.

    Raises:
        EsftError: if run, step, model or every task cannot be had.
    """
    alone = request.run is None and request.model is not None
    source = None if alone else find_source(request.run)
    recipe = None if source is None or source.run is None else _recipe(source)
    lines = request.priors or (() if recipe is None else recipe.prior.tasks)
    if not lines and recipe is None:
        raise RecipeError(
            "no prior task is named, expected one at least",
            hint="--prior tasks.txt, a task a line, or --prior gsm8k:100",
        )
    specs = [parse_prior_line(line) for line in lines]
    if recipe is not None:
        refuse_target(specs, recipe.task.name)
    models = _models(request, source, watcher)
    if request.load is not None:
        models = QuantizedModels(models, request.load, watcher)
    subjects, failed = _subjects(request, recipe, specs, models, _batch(source))
    distances = None
    if isinstance(models, RunModels):
        distances = Distances(
            source, models, subjects, request.kl_prompts, request.kl_tokens, watcher
        )
    evaluator = Evaluator(models, subjects, EvaluationCache(), watcher)
    half = str(models.loaded.dtype) != "torch.float32"
    floor = evaluator.noise_floor() if request.noise_floor and half else None
    measured = evaluator.run(distances.measure if distances else lambda step: None)
    record = EvalRecord(
        model=models.loaded.id,
        run=None if source is None or source.run is None else str(source.run.path),
        base=models.version(0).base,
        journal=None if source is None else source.record.checksum,
        margin=request.margin,
        load=request.load,
        steps=tuple(models.steps),
        tasks=tuple(
            task_result(
                task,
                models.steps,
                request.margin,
                () if distances is None else distances.kl[task.subject.name],
            )
            for task in measured
        ),
        drift=() if distances is None else tuple(distances.drift),
        noise_floor=floor,
        failed=failed,
    )
    return EvalResult(record=record, measured=measured, path=_keep(source, record))


def _recipe(source: Source) -> Recipe:
    return with_recorded_paths(
        load_recipe(str(source.run.recipe_path), {}), source.run.info["places"]
    )


def _models(request: EvalRequest, source: Source | None, watcher: Watcher) -> Models:
    if source is None:
        if request.at != "last":
            raise RecipeError(
                f"--at is {request.at}, expected none: a model by itself has no steps",
                hint="name the run: esft eval RUN --at STEPS",
            )
        return one_model(request.model, request.dtype, request.device, watcher)
    if request.dtype is not None:
        raise RecipeError(
            f"--dtype is {request.dtype}, expected none: a run has a dtype of its own",
            hint="esft export --dtype converts a step's model; measure that with --model",
        )
    steps = {0, *(step_of(source, each.strip()) for each in request.at.split(","))}
    return RunModels(
        source, tuple(sorted(steps)), watcher, model=request.model, device=request.device
    )


def _batch(source: Source | None) -> int | None:
    """Return the sequences at a time that the run found to fit."""
    if source is None or source.run is None:
        return None
    return source.run.info["batches"][-1][1]


def _subjects(
    request: EvalRequest,
    recipe: Recipe | None,
    specs: list[PriorSpec],
    models: Models,
    batch: int | None,
) -> tuple[tuple[Subject, ...], tuple[FailedTask, ...]]:
    """Return the tasks that can be measured, and those that cannot.

    Raises:
        RunError: if none can.
    """
    found, failed = [], []
    loaded = models.loaded
    makers = []
    if recipe is not None:
        makers.append((recipe.task.name, lambda: target_of(recipe, loaded, Batches(batch))))
    folder = request.data_dir or (None if recipe is None else recipe.task.data_dir)
    rows = request.rows or (Prior() if recipe is None else recipe.prior).rows
    for spec in specs:

        def make(spec=spec) -> Subject:
            return prior_of(rows_of(spec, rows, folder), loaded, Batches(batch))

        makers.append((spec.name, make))
    for name, make in makers:
        try:
            found.append(make())
        except EsftError as error:
            failed.append(FailedTask(task=name, error=str(error), hint=error.hint))
    if not found:
        first = failed[0]
        raise RunError(f"no task can be measured: {first.task}: {first.error}", hint=first.hint)
    return tuple(found), tuple(failed)


def _keep(source: Source | None, record: EvalRecord) -> str | None:
    if source is None or source.run is None:
        return None
    name = "eval.json" if record.load is None else f"eval-{record.load}.json"
    path = source.run.path / name
    write_whole(path, json.dumps(to_json(record), indent=1) + "\n")
    return str(path)
