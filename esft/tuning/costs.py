"""What a run takes, told before it starts: memory by part, disk and download; what would fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from esft.errors import TaskError
from esft.models.outline import Outline, outline_model
from esft.models.shape import Shape, published_shapes, shape_of
from esft.recipe.settings import Anchor, Recipe
from esft.rollout.batches import Batches
from esft.runs.folder import free_on_disk, require_room
from esft.runs.names import RUNS, choose_run_path
from esft.tuning.base import tuned_elements
from esft.tuning.memory import (
    Batch,
    Memory,
    Room,
    batch_bytes,
    choices,
    disk_bytes,
    memory_of,
    placed,
    resized,
    room_on,
)
from esft.tuning.plan import slow_dtype, stage_words, work_lines
from esft.tuning.session import open_works
from esft.tuning.track import require_tracker
from esft.tuning.watcher import Watcher

ASSUMED = Batch(sequences=1, tokens=256, answer=256)
"""A sequence where no rows say how long they are."""
CARDS = (8, 12, 16, 24)
"""GB of the cards in the table of what fits. A GB is 10^9 bytes: of a card sold as 12 GB, which has
12 * 2^30, that leaves 0.9 to the driver and to CUDA's own context."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What one way to keep base weights and drift takes."""

    store: str
    drift: str
    memory: Memory
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes that a run leaves, and those that come before it."""

    run: int  # model and snapshots
    free: int
    base: int  # the base weights in esft's cache, mapped where the checkpoint's files do not serve
    download: int  # weights that are not here


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a run takes, told from config, headers and rows."""

    model: str
    device: str
    dtype: str
    parameters: int
    tuned: int
    batch: Batch  # the one that takes the most
    rows: str  # where the batch's lengths come from
    store: str
    drift: str
    memory: Memory
    room: Room
    fits: bool
    changes: tuple[str, ...] | None  # options with which it would fit; None where none do
    choices: tuple[Choice, ...]
    slow: str | None
    disk: Disk


def plan_run(recipe: Recipe, vram: float | None = None, *, assumed: bool = False) -> Costs:
    """Return what a run takes; no weights are read or downloaded, and no run is begun.

    Args:
        vram: GB of a GPU to plan for; None plans for this machine's device.
        assumed: do not look at rows, but take `ASSUMED` for them.

    Raises:
        EsftError: if the model is not found, or cannot be tuned as far as its headers tell.
    """
    why = "no task named"
    if not assumed:
        try:
            works = [*open_works(recipe, outline_model)]
            batches = [batch for work in works for batch in work.batches]
            return costs_of(recipe, works[0].model, batches, "of its rows", vram)
        except TaskError as error:
            why = str(error)
    model = recipe.model
    how = {"trust_remote_code": model.trust_remote_code, "weights": model.weights}
    outline = outline_model(model.id, dtype=model.dtype, device=model.device, **how)
    batches = [resized(ASSUMED, Batches(recipe.task.batch).size)]
    return costs_of(recipe, outline, batches, f"assumed, {why}", vram)


def check_run(recipe: Recipe, watcher: Watcher) -> Costs:
    """Tell what a run is to do, as its first lines would, after all checks before it that need no
    weights: recipe, rows, model files, run folder and room on the disk. Nothing is written.

    EsftError where one fails, as `run_tuning`.
    """
    path = choose_run_path(recipe.run.dir, recipe.called, recipe.model.id)
    require_tracker(recipe.run.track)
    watcher.phase(f"checking {recipe.model.id}")
    works = [*open_works(recipe, outline_model)]
    batches = [batch for work in works for batch in work.batches]
    costs = costs_of(recipe, works[0].model, batches, "of its rows")
    require_room(path, costs.disk.run)
    for work in works:
        if recipe.stages:
            watcher.phase(stage_words(work))
        lines, warning = work_lines(work, costs.tuned)
        watcher.plan(lines)
        if warning is not None:
            watcher.notice(warning)
    return costs


def costs_of(
    recipe: Recipe,
    outline: Outline,
    batches: Sequence[Batch],
    rows: str,
    vram: float | None = None,
) -> Costs:
    """Return what a run takes whose model and batches are known; see `plan_run`."""
    model, shape, room = recipe.model, shape_of(outline.model), room_on(outline.device)
    tuned = tuned_elements(shape, model.include, model.exclude, recipe.search.low_rank)
    device = outline.device.type
    if vram is not None:
        room, device = replace(room, device=int(vram * 1e9)), "cuda"
    rest = tuned, device, batches
    anchor = placed(recipe.anchor, shape, *rest, room)
    memory = memory_of(shape, tuned, anchor, device, batches)
    fits, listed = memory.fits(room), choices(anchor, shape, *rest, room)
    return Costs(
        model=model.id,
        device=device if vram is None else f"{device} of {vram:g} GB",
        dtype=shape.dtype,
        parameters=shape.numel,
        tuned=tuned,
        batch=max(batches, key=lambda batch: batch_bytes(shape, batch)),
        rows=rows,
        store=anchor.store,
        drift=anchor.drift,
        memory=memory,
        room=room,
        fits=fits,
        changes=() if fits else what_fits(anchor, shape, *rest, room),
        choices=tuple(
            Choice(store=one.store, drift=one.drift, memory=taken, fits=taken.fits(room))
            for one, taken in listed
        ),
        slow=slow_dtype(shape, *rest, anchor, room),
        disk=_disk(recipe, outline, shape, tuned, anchor),
    )


def _disk(recipe: Recipe, outline: Outline, shape: Shape, tuned: int, anchor: Anchor) -> Disk:
    cached = anchor.store == "disk" and not outline.mappable
    return Disk(
        run=disk_bytes(shape, tuned, anchor, recipe.run.keep_model),
        free=free_on_disk(Path(recipe.run.dir or RUNS)),
        base=shape.nbytes if cached else 0,
        download=outline.missing,
    )


def what_fits(
    anchor: Anchor, shape: Shape, tuned: int, device: str, batches: Sequence[Batch], room: Room
) -> tuple[str, ...] | None:
    """Return the fewest options with which a run fits; None where it does not with all of them."""
    most = max(batch.sequences for batch in batches)
    sizes = [most >> halvings for halvings in range(1, most.bit_length())]
    dtypes = ["bfloat16"] if shape.itemsize == 4 and device != "cpu" else []
    ways = product(
        [None, *sizes],
        [None] if anchor.store == "disk" else [None, "cpu", "disk"],
        [None] if anchor.drift == "int8" else [None, "int8"],
        [None, *dtypes],
    )
    # In their order those that change the batch least come first.
    for size, store, drift, dtype in sorted(
        ways, key=lambda way: sum(one is not None for one in way)
    ):
        options = {"--set task.batch": size, "--set anchor.store": store}
        options |= {"--set anchor.drift": drift, "--dtype": dtype}
        changed = replace(
            anchor,
            store=store or anchor.store,
            drift=drift or anchor.drift,
            drift_store="cpu" if store else anchor.drift_store,
        )
        smaller = [resized(b, min(b.sequences, size or most)) for b in batches]
        other = replace(shape, dtype=dtype or shape.dtype)
        if memory_of(other, tuned, changed, device, smaller).fits(room):
            joined = {name: " " if name == "--dtype" else "=" for name in options}
            return tuple(f"{n}{joined[n]}{value}" for n, value in options.items() if value)
    return None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What of a model fits on a card."""

    model: str
    parameters: int
    card: int  # GB
    store: str | None  # where base weights and drift lie: "device", "cpu"; None: it does not fit
    batch: int | None  # the most sequences of `ASSUMED`, up to those that a run begins with


def fit_table() -> list[Fit]:
    """Return what fits on each of `CARDS`, of models that people use, in bfloat16."""
    return [_fit(name, shape, card) for name, shape in published_shapes().items() for card in CARDS]


def _fit(name: str, shape: Shape, card: int) -> Fit:
    # What lies on the host is a matter of the host.
    room, most = Room(device=card * 10**9, host=10**15), Batches(None).size
    for size in (most >> halvings for halvings in range(most.bit_length())):
        rest = shape, shape.numel, "cuda", [resized(ASSUMED, size)]
        anchor = placed(Anchor(), *rest, room)
        if memory_of(*rest[:2], anchor, *rest[2:]).fits(room):
            return Fit(
                model=name, parameters=shape.numel, card=card, store=anchor.store, batch=size
            )
    return Fit(model=name, parameters=shape.numel, card=card, store=None, batch=None)
