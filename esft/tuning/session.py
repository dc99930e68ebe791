"""What a run works with: model, weights, drift and rows, loaded and checked."""

import os
from dataclasses import dataclass, replace

from esft.engine import Drift, Weights
from esft.engine.noise import derived_seed
from esft.engine.weights import identity
from esft.errors import AnchorError, RecipeError
from esft.models.base_file import MappedBase, map_base
from esft.models.load import LoadedModel, load_model
from esft.recipe.settings import Anchor, Recipe
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRow
from esft.rollout.rollout import Rollout
from esft.tasks.rows import Split
from esft.tuning.tasks import EvalTask, eval_task, prior_rows, task_and_rows


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the steps of a run work on."""

    loaded: LoadedModel
    identity: str
    """Of the base model."""
    weights: Weights
    drift: Drift
    mapped: MappedBase | None
    """The files of the base weights, where they stay on the disk."""

    def refuse_if_changed(self) -> None:
        """Raise AnchorError if a file of the base weights is not what it was when it was mapped."""
        file = None if self.mapped is None else self.mapped.changed()
        if file is not None:
            raise AnchorError(
                f"{file} changed while its weights were in use, expected the base model to stay",
                hint="put it back as it was, then esft resume; --set anchor.store=cpu keeps a copy "
                "in memory",
            )


def open_base(
    loaded: LoadedModel,
    anchor: Anchor,
    seed: int,
    include: tuple[str, ...] | None = None,
    exclude: tuple[str, ...] | None = None,
) -> Base:
    """Return a model just loaded with a drift of its own.

    `include` and `exclude` are globs on the parameters to tune; None takes all, and leaves none.
    """
    try:
        weights = Weights(loaded.model, include, exclude)
    except ValueError as error:
        raise RecipeError(
            f"[model] include, exclude: {error}",
            hint="globs such as 'model.layers.*.mlp.*' match parameter names",
        ) from error
    base_identity = identity(loaded.model)
    mapped = map_base(loaded, weights.names, base_identity) if anchor.store == "disk" else None
    drift = Drift(
        weights,
        store=anchor.store,
        dtype=anchor.drift,
        seed=derived_seed("drift", seed),
        base=None if mapped is None else mapped.tensors,
        drift_store=anchor.drift_store,
    )
    return Base(loaded=loaded, identity=base_identity, weights=weights, drift=drift, mapped=mapped)


@dataclass(frozen=True, kw_only=True)
class Session:
    """Everything between a recipe and its first step."""

    recipe: Recipe
    """With a seed, and with the numbers of rows that there are."""
    base: Base
    """The model, with its drift."""
    train: tuple[EncodedRow, ...]
    tasks: tuple[EvalTask, ...]
    """What is evaluated: the target on its holdout rows, then the prior tasks."""

    @property
    def rollout(self) -> Rollout:
        """Of the target."""
        return self.tasks[0].rollout


class RowSampler:
    """Deals rows in seeded order, none twice within a pass; a pure function of the position.

    Without `per_step` a step sees all of them, in their own order.
    """

    def __init__(self, total: int, per_step: int | None, seed: int) -> None:
        self._total = total
        self.per_step = total if per_step is None else per_step
        self._seed = seed

    def position(self, step: int) -> int:
        """Return how many rows were dealt before `step`, counted from 1."""
        return (step - 1) * self.per_step

    def take(self, step: int) -> list[int]:
        """Return the numbers of the rows that `step` sees."""
        if self.per_step == self._total:
            return list(range(self._total))
        positions = range(self.position(step), self.position(step + 1))
        passes = {position // self._total for position in positions}
        orders = {number: self._order(number) for number in passes}
        return [orders[position // self._total][position % self._total] for position in positions]

    def _order(self, number: int) -> list[int]:
        # By hash, not random.shuffle, whose order may change with the Python version.
        return sorted(
            range(self._total), key=lambda row: derived_seed("rows", self._seed, number, row)
        )


def open_session(recipe: Recipe, batch: int | None = None) -> Session:
    """Load and check what a recipe names; what is quick to refuse is refused first.

    `batch` is the number of sequences at a time that was found to fit; None starts as the recipe
    says.
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
    target = eval_task("target", task, recipe.task, split.holdout, loaded, batches)
    tasks = [eval_task("prior", p.task, p.spec, p.rows, loaded, batches) for p in priors]
    base = open_base(
        loaded, recipe.anchor, recipe.search.seed, recipe.model.include, recipe.model.exclude
    )
    train = target.rollout.encode(split.train)
    return Session(recipe=recipe, base=base, train=train, tasks=(target, *tasks))


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
