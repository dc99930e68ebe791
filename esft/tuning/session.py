"""What a run works with: model, weights, drift and rows, loaded and checked."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property

from torch import Tensor

from esft.engine import Drift, Weights
from esft.engine.batched import BatchedModel, most_members, vectors_numel
from esft.engine.forecast import Law
from esft.engine.measures import law_of_weights
from esft.engine.noise import derived_seed
from esft.engine.replayed import REPLAY, ReplayedDrift
from esft.engine.weights import chosen_names, identity
from esft.errors import AnchorError, RecipeError
from esft.models.base_file import MappedBase, map_base
from esft.models.device import choose_device
from esft.models.load import LoadedModel, load_model
from esft.models.outline import Outline
from esft.models.shape import Shape, shape_of
from esft.recipe.settings import Anchor, Recipe
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRow
from esft.rollout.rollout import Rollout
from esft.tuning.anchor_kl import AnchorKl, AnchorPrompts, anchor_prompts
from esft.tuning.memory import Batch, Memory, Room, batches_of, memory_of, placed, room_on
from esft.tuning.tasks import (
    EvalTask,
    eval_task,
    find_batch,
    prior_rows,
    task_and_rows,
)
from esft.tuning.watcher import Watcher


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the steps of a run work on."""

    loaded: LoadedModel
    identity: str  # of the base model
    weights: Weights
    drift: Drift
    anchor: Anchor  # with the places that were chosen for base weights and drift
    mapped: MappedBase | None  # the files of the base weights, where they stay on the disk
    law: Law  # of the noise that the drift is made of

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
    include: tuple[str, ...] | None,
    exclude: tuple[str, ...] | None,
    room: Room,
    batches: Iterable[Batch] = (),
    rank: int | None = None,
) -> Base:
    """Return a model just loaded with a drift of its own.

    Args:
        include, exclude: globs, see `Weights`.
        room: what was free before it was loaded, for the places that `anchor` leaves open.
        batches: what else goes into it.
        rank: of its noise, see `Weights`.
    """
    shape = shape_of(loaded.model)
    tuned = tuned_elements(shape, include, exclude, rank)
    anchor = placed(anchor, shape, tuned, loaded.device.type, batches, room)
    weights = Weights(loaded.model, include, exclude, rank=rank)
    base_identity, law = identity(loaded.model), law_of_weights(weights)
    mapped = map_base(loaded, weights.names, base_identity) if anchor.store == "disk" else None
    tensors = None if mapped is None else mapped.tensors
    if anchor.drift == REPLAY:
        drift = _replayed(weights, anchor.store, tensors)
    else:
        drift = Drift(
            weights,
            store=anchor.store,
            dtype=anchor.drift,
            seed=derived_seed("drift", seed),
            base=tensors,
            drift_store=anchor.drift_store,
        )
    return Base(
        loaded=loaded,
        identity=base_identity,
        weights=weights,
        drift=drift,
        anchor=anchor,
        mapped=mapped,
        law=law,
    )


def _replayed(weights: Weights, store: str, base: Mapping[str, Tensor] | None) -> ReplayedDrift:
    try:
        return ReplayedDrift(weights, store, base=base)
    except ValueError as error:
        raise RecipeError(
            f'[anchor] drift is "replay": {error}',
            hint="leave floats out of [model] include, or keep a drift",
        ) from error


def tuned_elements(
    shape: Shape,
    include: tuple[str, ...] | None,
    exclude: tuple[str, ...] | None,
    rank: int | None = None,
) -> int:
    """Return how many elements are tuned; RecipeError if the globs choose none."""
    try:
        names = chosen_names(shape.parameters, include, exclude, rank, list(shape.codes))
    except ValueError as error:
        raise RecipeError(
            f"[model] include, exclude: {error}",
            hint="globs such as 'model.layers.*.mlp.*' match parameter names",
        ) from error
    return sum(math.prod(shape.parameters[name]) for name in names)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run has to do, without the weights it does it on."""

    recipe: Recipe  # with a seed, and with the numbers of rows that there are
    model: LoadedModel | Outline
    train: tuple[EncodedRow, ...]
    tasks: tuple[EvalTask, ...]  # the target on its holdout rows, then the prior tasks
    left_out: tuple[int, int]  # train and validation rows, as `Split.left_out`
    room: Room  # before the model was loaded
    prompts: AnchorPrompts | None = None  # where members are compared with the base model

    @property
    def rollout(self) -> Rollout:
        """Of the target."""
        return self.tasks[0].rollout

    @property
    def batches(self) -> list[Batch]:
        """The largest batches of its tasks."""
        size, members = self.rollout.batches.size, self.members_together
        tried = batches_of(self.rollout, self.train * members, size)
        evaluated = [batches_of(task.rollout, task.encoded, size) for task in self.tasks]
        noise = members * self._noise_bytes
        return [
            *(replace(batch, noise=noise) for batch in tried),
            *(batch for batches in evaluated for batch in batches),
        ]

    @property
    def members_together(self) -> int:
        """How many members share batches at most: those whose rows fill one, and whose noise fits.

        Fixed by the recipe and the batch, so that it changes no result who rolls them out.
        """
        if self.recipe.search.low_rank is None:
            return 1
        fit = self.rollout.batches.size // self.sequences
        return max(1, min(fit, most_members(self._noise_bytes), self.recipe.search.population))

    @cached_property
    def sequences(self) -> int:
        """How many a member has in a step, at most."""
        rows = self.recipe.task.rows_per_step or len(self.train)
        return rows * max(map(self.rollout.sequences, self.train))

    @property
    def tunes_codes(self) -> bool:
        """Whether any of what is tuned is codes."""
        model, shape = self.recipe.model, shape_of(self.model.model)
        codes = list(shape.codes)
        names = chosen_names(shape.parameters, model.include, model.exclude, None, codes)
        return any(name in shape.codes for name in names)

    @property
    def _noise_bytes(self) -> int:
        """What the noise of a member takes that shares a batch with others."""
        model, rank = self.recipe.model, self.recipe.search.low_rank
        if rank is None:
            return 0
        shape = shape_of(self.model.model)
        codes = list(shape.codes)
        names = chosen_names(shape.parameters, model.include, model.exclude, rank, codes)
        return shape.itemsize * vectors_numel([shape.parameters[name] for name in names], rank)


@dataclass(frozen=True, kw_only=True)
class Session(Work):
    """Everything between a recipe and its first step."""

    base: Base
    batched: BatchedModel | None
    """Its model, where members share batches: with noise of low rank."""
    anchor_kl: AnchorKl | None

    @property
    def sigma(self) -> float:
        """Noise scale of the members of the step to come."""
        return self.recipe.search.at(self.base.drift.steps + 1)[0]

    def turns(self, step: int) -> list[int]:
        """Return the numbers of the train rows whose turn it is in a step."""
        total, per_step = len(self.train), self.recipe.task.rows_per_step
        per_step = total if per_step is None else per_step
        return rows_of_step(step, total, per_step, self.recipe.search.seed)

    @property
    def memory(self) -> Memory:
        """What the run takes, by part."""
        base = self.base
        shape, device = shape_of(base.loaded.model), base.loaded.device.type
        return memory_of(shape, base.weights.numel, base.anchor, device, self.batches)


def rows_of_step(step: int, total: int, per_step: int, seed: int) -> list[int]:
    """Return the numbers of the rows that `step` sees: seeded order, none twice within a pass.

    Where a step sees all of them, they come in their own order.
    """
    if per_step == total:
        return list(range(total))

    def order(dealt: int) -> list[int]:
        # By hash, not random.shuffle, whose order may change with the Python version.
        return sorted(range(total), key=lambda row: derived_seed("rows", seed, dealt, row))

    positions = range((step - 1) * per_step, step * per_step)
    orders = {dealt: order(dealt) for dealt in {position // total for position in positions}}
    return [orders[position // total][position % total] for position in positions]


@dataclass(frozen=True)
class Opened:
    """The model of a recipe, loaded already, and what was free before it was."""

    model: LoadedModel
    room: Room


def open_session(recipe: Recipe, batch: int | None = None, opened: Opened | None = None) -> Session:
    """Load and check what a recipe names; what is quick to refuse is refused first.

    A missing seed is drawn; `batch` is the number of sequences at a time that was found to fit.
    """
    work = open_work(recipe, load_model if opened is None else lambda *_, **__: opened.model, batch)
    work = work if opened is None else replace(work, room=opened.room)
    model, seed = work.recipe.model, work.recipe.search.seed
    globs = model.include, model.exclude
    rest = work.room, work.batches, work.recipe.search.low_rank
    base = open_base(work.model, recipe.anchor, seed, *globs, *rest)
    batched = None if work.recipe.search.low_rank is None else _batched(base)
    kl = None if work.prompts is None else AnchorKl(work.model, work.prompts, batched)
    of_work = {one.name: getattr(work, one.name) for one in fields(work)}
    return Session(**of_work, base=base, batched=batched, anchor_kl=kl)


def _batched(base: Base) -> BatchedModel:
    try:
        return BatchedModel(base.loaded.model, base.weights)
    except ValueError as error:
        raise RecipeError(
            f"search.noise is lowrank: {error}",
            hint="leave it out by --set model.exclude, a list of globs on names, or take "
            "--noise full",
        ) from error


def with_seed(recipe: Recipe) -> Recipe:
    """Return a recipe with its seed, drawn if it has none."""
    seed = recipe.search.seed
    seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
    return replace(recipe, search=replace(recipe.search, seed=seed))


def open_work(
    recipe: Recipe, load: Callable[..., LoadedModel | Outline], batch: int | None = None
) -> Work:
    """Return what a recipe names, its model by `load`; see `open_session`."""
    task, split = task_and_rows(recipe.task)
    train, asked = len(split.train), recipe.task.rows_per_step
    if asked is not None and asked > train:
        raise RecipeError(
            f"[task] rows_per_step is {asked}, expected at most {train}: there are no more rows "
            "to tune on",
            hint=f"set rows_per_step = {train}, or add rows",
        )
    recipe = replace(
        with_seed(recipe), task=replace(recipe.task, train=train, holdout=len(split.holdout))
    )
    priors, model = prior_rows(recipe, task), recipe.model
    room = room_on(choose_device(model.device))
    loaded = load(
        model.id,
        dtype=model.dtype,
        device=model.device,
        trust_remote_code=model.trust_remote_code,
        weights=model.weights,
    )
    batches = Batches(recipe.task.batch if batch is None else batch)
    target = eval_task("target", task, recipe.task, split.holdout, loaded, batches)
    tasks = [
        eval_task("prior", prior, spec, rows, loaded, batches)
        for spec, (prior, rows) in zip(recipe.prior.specs, priors, strict=True)
    ]
    encoded, tasks = target.rollout.encode(split.train), (target, *tasks)
    return Work(
        recipe=recipe,
        model=loaded,
        train=encoded,
        tasks=tasks,
        left_out=split.left_out,
        room=room,
        prompts=anchor_prompts(recipe, loaded, tasks, encoded),
    )


def fit_batch(session: Session, watcher: Watcher, sharing: int = 1) -> None:
    """Set how many sequences go through the model at once, where the recipe does not say it.

    For a run that begins, before anything is measured: one that goes on has its own. So many
    processes are `sharing` the memory of this machine.
    """
    settings = session.recipe.task
    if settings.batch is not None:
        return
    watcher.phase("finding how many sequences fit into memory")
    per_step = settings.train if settings.rows_per_step is None else settings.rows_per_step
    if session.batched is not None:  # members share batches
        per_step *= session.recipe.search.population
    session.rollout.batches.size = find_batch(session.tasks, session.train, per_step, sharing)
