"""What a run works with: model, weights, drift and rows, loaded and checked."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from esft.batches import Batches
from esft.engine import Drift, Weights
from esft.engine.identity import identity
from esft.engine.noise import derived_seed
from esft.errors import RecipeError
from esft.models import LoadedModel, load_model
from esft.recipe import Recipe
from esft.rollout import Prepared, Rollout, chosen_scoring
from esft.tasks import get_task
from esft.tasks.rows import Split, split_rows
from esft.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Session:
    """Everything between a recipe and its first step."""

    recipe: Recipe
    """With a seed."""
    loaded: LoadedModel
    base: str
    """Identity of the base model."""
    weights: Weights
    drift: Drift
    task: Task
    rollout: Rollout
    train: Prepared
    holdout: Prepared


def open_session(recipe: Recipe) -> Session:
    """Load and check what a recipe names; what is quick to refuse is refused first.

    Raises:
        EsftError: if model, task, rows or settings do not go together.
    """
    recipe = with_seed(recipe)
    task, split = _task_and_rows(recipe)
    loaded = load_model(
        recipe.model.id,
        dtype=recipe.model.dtype,
        device=recipe.model.device,
        trust_remote_code=recipe.model.trust_remote_code,
    )
    rollout = Rollout(
        loaded.model,
        loaded.tokenizer,
        task,
        scoring=recipe.task.scoring,
        reward=recipe.task.reward,
        max_new_tokens=recipe.task.max_new_tokens,
        batches=Batches(recipe.task.batch),
    )
    train, holdout = rollout.prepare(split.train), rollout.prepare(split.holdout)
    weights = _weights(recipe, loaded)
    return Session(
        recipe=recipe,
        loaded=loaded,
        base=identity(loaded.model),
        weights=weights,
        drift=Drift(
            weights,
            store=recipe.anchor.store,
            dtype=recipe.anchor.drift,
            seed=derived_seed("drift", recipe.search.seed),
        ),
        task=task,
        rollout=rollout,
        train=train,
        holdout=holdout,
    )


def with_seed(recipe: Recipe) -> Recipe:
    """Return the recipe with a seed: its own, or one drawn now."""
    if recipe.search.seed is not None:
        return recipe
    seed = int.from_bytes(os.urandom(4), "little")
    return replace(recipe, search=replace(recipe.search, seed=seed))


def _task_and_rows(recipe: Recipe) -> tuple[Task, Split]:
    task = get_task(recipe.task.name)
    chosen_scoring(task, recipe.task.scoring, recipe.task.reward)
    rows = split_rows(task, recipe.task.train, recipe.task.holdout, _data_dir(recipe, task))
    return task, rows


def _data_dir(recipe: Recipe, task: Task) -> Path | None:
    """Return the folder named, or ESFT_DATA_DIR for a task that does not ship its rows."""
    folder = recipe.task.data_dir
    if folder is None and task.hub is not None:
        folder = os.environ.get("ESFT_DATA_DIR")
    return None if not folder else Path(folder)


def _weights(recipe: Recipe, loaded: LoadedModel) -> Weights:
    try:
        return Weights(loaded.model, recipe.model.include, recipe.model.exclude)
    except ValueError as error:
        raise RecipeError(
            f"[model] include, exclude: {error}",
            hint="globs such as 'model.layers.*.mlp.*' match parameter names",
        ) from error
