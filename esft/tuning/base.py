"""The model of a run with its weights and their drift, as its steps work on them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from esft.engine import Drift, Weights
from esft.engine.forecast import Law
from esft.engine.measures import law_of_weights
from esft.engine.noise import derived_seed
from esft.engine.replayed import REPLAY, ReplayedDrift
from esft.engine.weights import chosen_names, identity
from esft.errors import AnchorError, RecipeError
from esft.models.base_file import MappedBase, map_base
from esft.models.load import LoadedModel
from esft.models.shape import Shape, shape_of
from esft.recipe.settings import Anchor
from esft.tuning.memory import Batch, Room, placed


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
            moving=anchor.moves,
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
