"""A base model with its drift, at D = 0."""

from dataclasses import dataclass

from esft.engine import Drift, Weights
from esft.engine.noise import derived_seed
from esft.engine.weights import identity
from esft.errors import AnchorError, RecipeError
from esft.models.base_file import MappedBase, map_base
from esft.models.load import LoadedModel
from esft.recipe.settings import Anchor


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

    Args:
        loaded: at its base weights.
        anchor: where the base weights and the drift lie, and how the drift is kept.
        seed: of the run.
        include: globs on the parameters to tune; None takes all.
        exclude: globs on parameters to leave alone.

    Raises:
        RecipeError: if the globs leave nothing to tune, or match nothing.
        AnchorError: if the base weights cannot be kept as asked.
    """
    try:
        weights = Weights(loaded.model, include, exclude)
    except ValueError as error:
        raise RecipeError(
            f"[model] include, exclude: {error}",
            hint="globs such as 'model.layers.*.mlp.*' match parameter names",
        ) from error
    found = identity(loaded.model)
    mapped = map_base(loaded, weights.names, found) if anchor.store == "disk" else None
    drift = Drift(
        weights,
        store=anchor.store,
        dtype=anchor.drift,
        seed=derived_seed("drift", seed),
        base=None if mapped is None else mapped.tensors,
        drift_store=anchor.drift_store,
    )
    return Base(loaded=loaded, identity=found, weights=weights, drift=drift, mapped=mapped)
