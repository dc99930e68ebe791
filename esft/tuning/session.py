"""What a run works with: model, weights, drift and rows, loaded and checked."""

import os
from dataclasses import dataclass, replace

from esft.engine import Drift, Weights
from esft.errors import RecipeError
from esft.models.load import LoadedModel, load_model
from esft.recipe.settings import Recipe, TaskSettings
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRows
from esft.rollout.rollout import Rollout
from esft.tasks.registry import data_folder, get_task
from esft.tasks.rows import Split, split_rows
from esft.tasks.task import Task
from esft.tuning.prior_tasks import PriorTask, prior_rows, ready, rollout_of
from esft.tuning.tuned_model import Base, open_base


@dataclass(frozen=True, kw_only=True)
class Session:
    """Everything between a recipe and its first step."""

    recipe: Recipe
    """With a seed."""
    base: Base
    """The model, with its drift."""
    task: Task
    rollout: Rollout
    train: EncodedRows
    holdout: EncodedRows
    priors: tuple[PriorTask, ...]

    @property
    def loaded(self) -> LoadedModel:
        """The model and its tokenizer."""
        return self.base.loaded

    @property
    def weights(self) -> Weights:
        """The parameters that are tuned."""
        return self.base.weights

    @property
    def drift(self) -> Drift:
        """How far they are from the base weights."""
        return self.base.drift


def open_session(recipe: Recipe, batch: int | None = None) -> Session:
    """Load and check what a recipe names; what is quick to refuse is refused first.

    Args:
        recipe: the settings.
        batch: sequences at a time that were found to fit; None starts as the recipe says.

    Raises:
        EsftError: if model, task, rows or settings do not go together.
    """
    task, split = task_and_rows(recipe.task)
    recipe = _completed(recipe, split)
    priors = prior_rows(recipe, task)
    loaded = load_model(
        recipe.model.id,
        dtype=recipe.model.dtype,
        device=recipe.model.device,
        trust_remote_code=recipe.model.trust_remote_code,
    )
    batches = Batches(recipe.task.batch if batch is None else batch)
    rollout = rollout_of(task, recipe.task, loaded, batches)
    train, holdout = rollout.encode(split.train), rollout.encode(split.holdout)
    base = open_base(
        loaded, recipe.anchor, recipe.search.seed, recipe.model.include, recipe.model.exclude
    )
    return Session(
        recipe=recipe,
        base=base,
        task=task,
        rollout=rollout,
        train=train,
        holdout=holdout,
        priors=ready(priors, loaded, batches),
    )


def _completed(recipe: Recipe, split: Split) -> Recipe:
    """Return the recipe with a seed, its own or one drawn now, and with the rows that there are."""
    train, asked = len(split.train), recipe.task.rows_per_step
    if asked is not None and asked > train:
        raise RecipeError(
            f"[task] rows_per_step is {asked}, expected at most {train}: there are no more rows "
            "to tune on",
            hint=f"set rows_per_step = {train}, or add rows",
        )
    seed = recipe.search.seed
    seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
    return replace(
        recipe,
        search=replace(recipe.search, seed=seed),
        task=replace(recipe.task, train=train, holdout=len(split.holdout)),
    )


def task_and_rows(settings: TaskSettings) -> tuple[Task, Split]:
    """Return the task of a recipe, and its rows.

    Raises:
        TaskError: if there is no such task, or its rows are not found.
    """
    task = get_task(settings.name, settings.grader)
    task.choose_scoring(settings.scoring, settings.reward)
    folder = data_folder(settings.data_dir, task)
    return task, split_rows(task, settings.train, settings.holdout, folder)
