"""The prior tasks of a run: what the model should not lose, with the rows that show it."""

from dataclasses import dataclass
from pathlib import Path

from esft.batches import Batches
from esft.errors import RecipeError, TaskError
from esft.models import LoadedModel
from esft.prepared import Prepared
from esft.recipe import Recipe
from esft.rollout import Rollout
from esft.tasks import data_folder, get_task
from esft.tasks.rows import read_split, row_source
from esft.tasks.task import Row, Task


@dataclass(frozen=True, kw_only=True)
class PriorRows:
    """A prior task with the rows it is measured on."""

    task: Task
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class PriorTask:
    """A prior task ready to be measured on a model."""

    name: str
    rollout: Rollout
    prepared: Prepared


def prior_rows(recipe: Recipe, target: Task) -> tuple[PriorRows, ...]:
    """Return the prior tasks of a recipe, in its order.

    Rows are the first of the test split, else of the validation split. A folder named for the
    target's rows counts for prior tasks whose rows are on the hub.

    Raises:
        RecipeError: if the target is among them.
        TaskError: if a task is unknown, or its rows cannot be had or are too few.
    """
    found = []
    for name in recipe.prior.tasks:
        task = get_task(name)
        if task.name == target.name or task.name in (each.task.name for each in found):
            raise RecipeError(
                f"[prior] tasks has {name}, expected tasks of other names than the target, "
                f"{target.name}, and than each other",
                hint=f"take {name} out of [prior] tasks",
            )
        found.append(PriorRows(task=task, rows=_rows(task, recipe)))
    return tuple(found)


def ready(
    priors: tuple[PriorRows, ...], loaded: LoadedModel, batches: Batches
) -> tuple[PriorTask, ...]:
    """Return prior tasks with their rows tokenized, each scored in its own way."""
    every = []
    for prior in priors:
        rollout = Rollout(loaded.model, loaded.tokenizer, prior.task, batches=batches)
        prepared = rollout.prepare(prior.rows)
        every.append(PriorTask(name=prior.task.name, rollout=rollout, prepared=prepared))
    return tuple(every)


def _rows(task: Task, recipe: Recipe) -> tuple[Row, ...]:
    folder = _folder(task, recipe)
    source, count = row_source(task, folder), recipe.prior.rows
    splits = [each for each in ("test", "validation") if source.has(task.splits.get(each, ""))]
    if not splits:
        raise TaskError(
            f"prior task {task.name} has neither test nor validation rows: "
            f"{source.where(task.splits.get('test', 'test'))} is not there",
            hint=f"take {task.name} out of [prior] tasks, or {source.fix}",
        )
    rows = read_split(task, splits[0], folder)
    if len(rows) < count:
        raise TaskError(
            f"prior task {task.name} has {len(rows)} {splits[0]} rows, expected {count} "
            "(prior.rows)",
            hint=f"--set prior.rows={len(rows)}",
        )
    return tuple(rows[:count])


def _folder(task: Task, recipe: Recipe) -> Path | None:
    return None if task.hub is None else data_folder(recipe.task.data_dir, task)
