"""What a run works with: model, weights, drift and rows, loaded and checked."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

from esft.engine.batched import BatchedModel, most_members, vectors_numel
from esft.engine.noise import derived_seed
from esft.engine.weights import chosen_names
from esft.errors import RecipeError
from esft.models.device import choose_device
from esft.models.load import LoadedModel, load_model
from esft.models.outline import Outline
from esft.models.shape import shape_of
from esft.recipe.settings import Recipe
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRow
from esft.rollout.rollout import Rollout
from esft.tasks.registry import data_folder
from esft.tuning.anchor_kl import AnchorKl, AnchorPrompts, anchor_prompts
from esft.tuning.base import Base, open_base
from esft.tuning.memory import Batch, Memory, Room, batches_of, memory_of, room_on
from esft.tuning.tasks import (
    EvalTask,
    eval_task,
    find_batch,
    prior_rows,
    task_and_rows,
)
from esft.tuning.watcher import Watcher


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run has to do, without the weights it does it on."""

    recipe: Recipe  # with a seed, and with the numbers of rows that there are
    model: LoadedModel | Outline
    train: tuple[EncodedRow, ...]
    tasks: tuple[EvalTask, ...]  # the target on its holdout rows, then the prior tasks
    left_out: tuple[int, int]  # train and validation rows, as `Split.left_out`
    room: Room  # before the model was loaded
    prompts: AnchorPrompts | None  # where members are compared with the base model
    whole: Recipe
    """Of a chain, whose stage `stage`, counted from 0, has this recipe; else the recipe."""
    stage: int = 0

    @property
    def before(self) -> int:
        """Steps of the stages before."""
        return sum(stage.steps for stage in self.whole.stages[: self.stage])

    @property
    def end(self) -> int:
        """The last step of the stage."""
        return self.before + self.recipe.search.steps

    @property
    def last(self) -> bool:
        """Whether no stage follows."""
        return self.stage + 1 >= len(self.whole.stages)

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return (self.whole if self.whole.stages else self.recipe).search.steps

    def scales(self, step: int) -> tuple[float, float]:
        """Return sigma and alpha of a step, counted from the first of the run."""
        return self.recipe.search.at(step - self.before)

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
    def member_kl(self) -> AnchorKl | None:
        """What members are compared with the base model by; None where none is."""
        return self.anchor_kl if self.recipe.anchor.kl else None

    @property
    def sigma(self) -> float:
        """Noise scale of the members of the step to come."""
        return self.scales(self.base.drift.steps + 1)[0]

    def turns(self, step: int) -> list[int]:
        """Return the numbers of the train rows whose turn it is in a step."""
        total, per_step = len(self.train), self.recipe.task.rows_per_step
        per_step = total if per_step is None else per_step
        return rows_of_step(step - self.before, total, per_step, self.recipe.search.seed)

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
    """Load and check what a recipe names, of a chain its first stage; what is quick to refuse is
    refused first.

    A missing seed is drawn; `batch` is the number of sequences at a time that was found to fit.
    """
    return open_sessions(recipe, batch, opened)[0]


def open_sessions(
    recipe: Recipe, batch: int | None = None, opened: Opened | None = None
) -> tuple[Session, ...]:
    """Return a session of each stage of a chain, which share model and drift; one of any other
    recipe. See `open_session`."""
    load = load_model if opened is None else lambda *_, **__: opened.model
    works = [*open_works(recipe, load, batch)]
    first, room = works[0], works[0].room if opened is None else opened.room
    model, search = first.recipe.model, first.recipe.search
    batches = [one for work in works for one in work.batches]
    rest = model.include, model.exclude, room, batches, search.low_rank
    base = open_base(first.model, recipe.anchor, search.seed, *rest)
    batched = None if search.low_rank is None else _batched(base)
    sessions = [_session(replace(work, room=room), base, batched) for work in works]
    if not recipe.stages:
        return tuple(sessions)
    stages = [
        replace(stage, changes={**stage.changes, **_rows_there(session)})
        for stage, session in zip(first.whole.stages, sessions, strict=True)
    ]
    whole = replace(first.whole, stages=tuple(stages))
    return tuple(replace(session, whole=whole) for session in sessions)


def _rows_there(session: Session) -> dict[str, object]:
    """Return how many rows a stage has, and the folder that they are in where they are in one."""
    task = session.recipe.task
    folder = data_folder(task.data_dir, session.rollout.task)
    where = {} if folder is None else {"task.data_dir": str(folder.absolute())}
    return {"task.train": task.train, "task.holdout": task.holdout, **where}


def _session(work: Work, base: Base, batched: BatchedModel | None) -> Session:
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
    recipe: Recipe,
    load: Callable[..., LoadedModel | Outline],
    batch: int | None = None,
    *,
    stage: int = 0,
    batches: Batches | None = None,
) -> Work:
    """Return what a recipe names, or a stage of it, its model by `load`; see `open_session`.

    `batches`: those of the stages before.
    """
    whole = with_seed(recipe)
    recipe, (*earlier, last) = whole.at_stage(stage), whole.targets
    others = [one for one in (*earlier, last) if not one.is_of(recipe.task)]
    task, split = task_and_rows(recipe.task)
    there = {"train": len(split.train), "holdout": len(split.holdout)}
    _refuse_more_rows(recipe.task.rows_per_step, there["train"])
    recipe = replace(recipe, task=replace(recipe.task, **there))
    whole = whole if whole.stages else recipe
    priors, model = prior_rows(whole, whole.targets), recipe.model
    room = room_on(choose_device(model.device))
    loaded = load(
        model.id,
        dtype=model.dtype,
        device=model.device,
        trust_remote_code=model.trust_remote_code,
        weights=model.weights,
    )
    if batches is None:
        batches = Batches(recipe.task.batch if batch is None else batch)
    measured = [(last.is_of(recipe.task), task, recipe.task, split.holdout)]
    for one in others:
        of_one, rows = task_and_rows(one)
        measured.append((one is last, of_one, one, rows.holdout))
    for spec, (prior, rows) in zip(recipe.prior.specs, priors, strict=True):
        measured.append((False, prior, spec, rows))
    tasks = tuple(
        eval_task("target" if is_target else "prior", *of_task, loaded, batches)
        for is_target, *of_task in measured
    )
    encoded = tasks[0].rollout.encode(split.train)
    return Work(
        recipe=recipe,
        model=loaded,
        train=encoded,
        tasks=tasks,
        left_out=split.left_out,
        room=room,
        prompts=anchor_prompts(recipe, loaded, tasks, encoded),
        whole=whole,
        stage=stage,
    )


def _refuse_more_rows(asked: int | None, train: int) -> None:
    if asked is not None and asked > train:
        raise RecipeError(
            f"[task] rows_per_step is {asked}, expected at most {train}: there are no more rows "
            "to tune on",
            hint=f"set rows_per_step = {train}, or add rows",
        )


def open_works(
    recipe: Recipe, load: Callable[..., LoadedModel | Outline], batch: int | None = None
) -> Iterator[Work]:
    """Yield what a recipe names, or each stage of it, with one model; see `open_work`."""
    first = open_work(recipe, load, batch)
    yield first
    batches = first.rollout.batches
    for stage in range(1, len(recipe.stages)):
        yield open_work(first.whole, lambda *_, **__: first.model, stage=stage, batches=batches)


def refuse_chain(recipe: Recipe, what: str) -> None:
    """Raise RecipeError where a recipe has stages, which `what` cannot choose anything for."""
    if recipe.stages:
        raise RecipeError(
            f"{what} is for one task, the recipe has {len(recipe.stages)} stages",
            hint=f"put a stage's task and settings into a recipe of their own, and {what} there",
        )


def fit_batch(sessions: Sequence[Session], watcher: Watcher, sharing: int = 1) -> None:
    """Set how many sequences go through the model at once, where the recipe does not say it.

    For a run that begins, before anything is measured: one that goes on has its own. So many
    processes are `sharing` the memory of this machine.
    """
    if sessions[0].whole.task.batch is not None:
        return
    watcher.phase("finding how many sequences fit into memory")
    sizes = []
    for session in sessions:
        settings = session.recipe.task
        per_step = settings.train if settings.rows_per_step is None else settings.rows_per_step
        if session.batched is not None:  # members share batches
            per_step *= session.recipe.search.population
        sizes.append(find_batch(session.tasks, session.train, per_step, sharing))
    sessions[0].rollout.batches.size = min(sizes)  # the stages of a chain have the same
