"""What memory a run takes, by part; and where base weights and drift lie so that it fits."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from esft.engine.kept import KINDS, kept_bytes
from esft.engine.undo import LOG_SHARE
from esft.engine.weights import scratch_bytes
from esft.models.memory import free_memory
from esft.recipe.settings import Anchor
from esft.rollout.kvcache import ROOM
from esft.rollout.logprobs import LOGITS, in_groups
from esft.rollout.options import trees_of
from esft.runs.snapshots import NEWEST

if TYPE_CHECKING:
    import torch

    from esft.models.shape import Shape
    from esft.rollout.encode import EncodedRow
    from esft.rollout.rollout import Rollout

MARGIN = 0.1
"""Share of the free memory that stays free in what is said to fit: predictions are as exact."""
PROGRAM = 48_000_000
"""Bytes of the host for tokenizer, rows, compiled kernels and buffers: measured with the embedded
model, above the interpreter with its libraries."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The sequences that go through a model at once, all as long as the longest."""

    sequences: int
    tokens: int  # of a sequence, as it is given
    answer: int = 0  # tokens that are then made one by one
    targets: int = 0  # positions of the batch whose logits are looked at together
    noise: int = 0  # bytes of that of its members, where several share it


@dataclass(frozen=True, kw_only=True)
class Room:
    """Free bytes, those that a model takes once it is loaded among them."""

    device: int
    host: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes by part; all of them on the device where that has no memory of its own (cpu, mps)."""

    device: Mapping[str, int]
    passing: Mapping[str, int]
    """On the device too, one after the other: the largest counts."""
    host: Mapping[str, int]

    @property
    def on_device(self) -> int:
        return sum(self.device.values()) + max(self.passing.values(), default=0)

    @property
    def on_host(self) -> int:
        return sum(self.host.values())

    def fits(self, room: Room) -> bool:
        free = 1 - MARGIN
        return self.on_device <= free * room.device and self.on_host <= free * room.host


def room_on(device: torch.device) -> Room:
    """Return what is free for a run whose weights are not loaded yet."""
    import torch

    return Room(device=free_memory(device), host=free_memory(torch.device("cpu")))


def memory_of(
    shape: Shape, tuned: int, anchor: Anchor, device: str, batches: Iterable[Batch]
) -> Memory:
    """Return what a run takes at its peak, above the interpreter with its libraries.

    Args:
        tuned: elements that are tuned.
        anchor: `placed`, so that its stores are not "auto" or None.
        device: the kind of the device: cpu, cuda or mps.
        batches: of all tasks; the largest counts.
    """
    base, drift = shape.tuned_nbytes(tuned), kept_bytes(anchor.drift, tuned)
    with_anchor = {"drift": drift} | ({"moving anchor": drift} if anchor.moves else {})
    on_device = {"weights": shape.nbytes}
    on_host: dict[str, int] = {}
    # What lies on the host takes the device's memory where that is one with the host's.
    beside = on_host if device == "cuda" else on_device
    if anchor.store != "disk":
        (on_device if anchor.store == "device" else beside)["base weights"] = base
    (on_device if anchor.drift_store == "device" else beside).update(with_anchor)
    beside["program"] = PROGRAM
    in_place = anchor.store == anchor.drift_store == "device" and drift
    if not (in_place or (device == "cpu" and drift)):
        on_device["log"] = int(LOG_SHARE * base)
    batch = max((batch_bytes(shape, one) for one in batches), default=0)
    passing = {"scratch": scratch_bytes(device), "batch": batch}
    return Memory(device=on_device, passing=passing, host=on_host)


def batch_bytes(shape: Shape, batch: Batch) -> int:
    """Return what a batch takes: cache, activations of the widest layer and logits."""
    rows, size = batch.sequences, shape.itemsize
    # A feed-forward part holds its input twice (for the sum behind it) and three products.
    token = (2 * shape.hidden + 3 * shape.intermediate) * size
    given = rows * batch.tokens
    if not batch.answer:
        # Log-probabilities beside the logits they are made of, in float32.
        logits = min(LOGITS, batch.targets * shape.vocabulary) * (8 if size == 4 else 8 + size)
        return batch.noise + given * (token + 2 * shape.hidden * size) + logits
    logits = rows * shape.vocabulary * (4 if size == 4 else 4 + size)
    whole = rows * (batch.tokens + -(-batch.answer // ROOM) * ROOM)
    # Each new token repeats a layer's keys and values for every head; once in ROOM tokens its
    # buffers are copied.
    layer = max(shape.token_bytes // shape.layers, 2 * shape.heads * shape.head * size)
    reading = given * (shape.token_bytes + token) + logits
    return batch.noise + max(reading, whole * (shape.token_bytes + layer) + logits)


def batches_of(rollout: Rollout, encoded: Iterable[EncodedRow], size: int) -> Iterator[Batch]:
    """Yield the batches that some rows go through a model in; of prompts the largest alone."""
    rows = list(encoded)
    prompts = sorted((len(prompt) for one in rows for prompt in one.prompts), reverse=True)[:size]
    if prompts:
        yield Batch(sequences=len(prompts), tokens=prompts[0], answer=rollout.max_new_tokens)
    trees = [tree for one in rows if one.options for tree in trees_of(one.options, math.inf)]
    for given in (trees, [reference for one in rows for reference in one.references]):
        given = sorted(given, key=lambda one: len(one.tokens), reverse=True)
        for first in range(0, len(given), size):
            for group in in_groups(given[first : first + size], sys.maxsize):
                targets = sum(len(one.targets) for one in group)
                yield Batch(sequences=len(group), tokens=len(group[0].tokens), targets=targets)


def disk_bytes(shape: Shape, tuned: int, anchor: Anchor, keep_model: bool) -> int:
    """Return what a run folder takes: the tuned model, where it is kept, and snapshots."""
    # The newest, that of the best step, and one being written; with a budget the last within and
    # the best after the base.
    # What is replayed has the codes themselves in its snapshots.
    kept = kept_bytes(anchor.drift, tuned) or shape.tuned_nbytes(tuned)
    snapshots = NEWEST + 2 + 2 * anchor.budgeted
    return shape.saved_nbytes * keep_model + snapshots * kept * (1 + anchor.moves)


def placed(
    anchor: Anchor, shape: Shape, tuned: int, device: str, batches: Iterable[Batch], room: Room
) -> Anchor:
    """Return `anchor` with a place for base weights and drift where it leaves that open.

    The first that fits, the fastest first: the device, a copy on the host, mapped from the disk.
    On a CPU the first two are one. Where none fits it is the last, which takes the least.
    """
    batches = list(batches)
    stores = (anchor.store,) if anchor.store != "auto" else STORES_OF.get(device, STORES)
    for store in stores:
        drift_store = anchor.drift_store
        if drift_store is None:
            drift_store = "device" if store == "device" else "cpu"
        chosen = replace(anchor, store=store, drift_store=drift_store)
        if memory_of(shape, tuned, chosen, device, batches).fits(room):
            break
    return chosen


STORES = ("device", "cpu", "disk")
STORES_OF = {"cpu": ("cpu", "disk")}
"""Where base weights can lie, the fastest first; by kind of device where they differ."""


def choices(
    anchor: Anchor, shape: Shape, tuned: int, device: str, batches: Iterable[Batch], room: Room
) -> list[tuple[Anchor, Memory]]:
    """Return the memory of each choice of store and drift."""
    rest = shape, tuned, device, list(batches), room
    every = [
        placed(replace(anchor, store=store, drift=kind, drift_store=None), *rest)
        for store in STORES_OF.get(device, STORES)
        for kind in KINDS
    ]
    return [(one, memory_of(shape, tuned, one, *rest[2:4])) for one in every]


def resized(batch: Batch, sequences: int) -> Batch:
    """Return the same batch with another number of sequences."""
    targets = -(-batch.targets * sequences // batch.sequences)
    return replace(batch, sequences=sequences, targets=targets)
