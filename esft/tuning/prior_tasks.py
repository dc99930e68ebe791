"""The prior tasks of a run: what the model should not lose, with the rows that show it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from esft.errors import RecipeError, TaskError
from esft.models.load import LoadedModel
from esft.recipe.priors import PriorSpec
from esft.recipe.settings import Recipe, TaskSettings
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRows
from esft.rollout.rollout import Rollout
from esft.tasks.registry import data_folder, get_task
from esft.tasks.rows import read_split, row_source
from esft.tasks.task import Row, RowSource, Task


@dataclass(frozen=True, kw_only=True)
class PriorRows:
    """A prior task with the rows it is evaluated on."""

    spec: PriorSpec
    task: Task
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class PriorTask:
    """A prior task ready to be evaluated on a model."""

    name: str
    rollout: Rollout
    encoded: EncodedRows


def prior_rows(recipe: Recipe, target: Task) -> tuple[PriorRows, ...]:
    """Return the prior tasks of a recipe, in its order, each with the rows it names.

    Raises:
        RecipeError: if the target is among them.
        TaskError: as `rows_of`.
    """
    prior = recipe.prior
    refuse_target(prior.specs, target.name)
    return tuple(rows_of(spec, prior.rows, recipe.task.data_dir) for spec in prior.specs)


def refuse_target(specs: Iterable[PriorSpec], target: str) -> None:
    """Raise RecipeError if the target, a task or a file of one's own, is among prior tasks."""
    tuned = PriorSpec(name=target)
    for spec in specs:
        if spec.kept_as == tuned.kept_as:
            raise RecipeError(
                f"the prior tasks have {spec}, expected tasks of other names than the target, "
                f"{tuned.task}",
                hint=f"take {spec} out of the prior tasks",
            )


def rows_of(spec: PriorSpec, default_rows: int, data_dir: str | None) -> PriorRows:
    """Return a prior task with its rows: the first of its split, without a look at other splits.

    Args:
        spec: which task; its split, else test, else validation.
        default_rows: how many rows where `spec` names no number.
        data_dir: folder of the rows of tasks that are on the hub, where `spec` names none; None
            looks at ESFT_DATA_DIR, then at the hub.

    Raises:
        TaskError: if the task is unknown or cannot be scored so, or its rows are not found or are
            too few.
    """
    task = get_task(spec.name, spec.grader)
    task.choose_scoring(spec.scoring, spec.reward)
    # A folder named for all tasks holds the rows of those on the hub; others have their own.
    folder = None if task.hub is None else data_folder(data_dir, task)
    if spec.data_dir is not None:
        folder = Path(spec.data_dir)
    split = _split(spec, task, row_source(task, folder))
    rows = read_split(task, split, folder)
    count = default_rows if spec.rows is None else spec.rows
    if len(rows) < count:
        there = replace(spec, rows=len(rows))
        asked = " (prior.rows)" if spec.rows is None else ""
        raise TaskError(
            f"prior task {task.name} has {len(rows)} {split} rows, expected {count}{asked}",
            hint=f"name the task with the rows there are: {there}",
        )
    return PriorRows(spec=spec, task=task, rows=tuple(rows[:count]))


def ready(
    priors: tuple[PriorRows, ...], loaded: LoadedModel, batches: Batches
) -> tuple[PriorTask, ...]:
    """Return prior tasks with their rows encoded, each to be scored as its spec says."""
    rollouts = [rollout_of(prior.task, prior.spec, loaded, batches) for prior in priors]
    return tuple(
        PriorTask(name=prior.task.name, rollout=rollout, encoded=rollout.encode(prior.rows))
        for prior, rollout in zip(priors, rollouts, strict=True)
    )


def rollout_of(
    task: Task, settings: TaskSettings | PriorSpec, loaded: LoadedModel, batches: Batches
) -> Rollout:
    """Return what rolls out a task on a model, as settings or a line of prior tasks say."""
    return Rollout(
        loaded.model,
        loaded.tokenizer,
        task,
        scoring=settings.scoring,
        reward=settings.reward,
        max_new_tokens=settings.max_new_tokens,
        batches=batches,
    )


def _split(spec: PriorSpec, task: Task, source: RowSource) -> str:
    """Return the split that is there: the one named, else test, else validation."""
    wanted = ("test", "validation") if spec.split is None else (spec.split,)
    for split in wanted:
        if source.has(task.splits.get(split, "")):
            return split
    lacks = "neither test nor validation rows" if spec.split is None else f"no {spec.split} rows"
    where = source.where(task.splits.get(wanted[0], wanted[0]))
    other = ""
    if spec.split != "train" and source.has(task.splits.get("train", "")):
        other = f"measure its train rows: {replace(spec, split='train')}, or "
    raise TaskError(
        f"prior task {task.name} has {lacks}: {where} is not there",
        hint=f"{other}take {task.name} out of the prior tasks, or {source.fix}",
    )
