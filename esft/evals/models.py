"""The models that are measured: the steps of a run, or one model alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch

from esft.engine.weights import identity
from esft.evals.quantized import quantized_copy, release
from esft.models.load import LoadedModel, load_model
from esft.rollout.cache import ModelVersion
from esft.tuning.rebuild import RebuildOptions, Source, bring_to, open_at_base
from esft.tuning.tuned_model import Base
from esft.tuning.watcher import Watcher

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Models(Protocol):
    """Models that share one place in memory; `at` changes the weights."""

    steps: tuple[int, ...]
    """In rising order; 0 is the base model."""
    loaded: LoadedModel

    def version(self, step: int) -> ModelVersion:
        """Return which weights those of `step` are, without making them."""

    def at(self, step: int) -> PreTrainedModel:
        """Return the model of `step`, whose weights the next call changes; steps never fall."""


class OneModel:
    """A model without a run: step 0 alone.

    Args:
        loaded: with its weights as they are.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.steps = (0,)
        self.loaded = loaded
        self._version = ModelVersion(base=identity(loaded.model), journal="")

    def version(self, step: int) -> ModelVersion:
        """Return those of the model."""
        return self._version

    def at(self, step: int) -> PreTrainedModel:
        """Return the one there is."""
        return self.loaded.model


class RunModels:
    """Steps of a run, rebuilt from its journal.

    Args:
        source: of the run.
        steps: in rising order, the first of them 0.
        watcher: told of progress.
        model: the base model, where it is not found as the run named it.
        device: where to; None takes the run's.
    """

    def __init__(
        self,
        source: Source,
        steps: tuple[int, ...],
        watcher: Watcher,
        *,
        model: str | None = None,
        device: str | None = None,
    ) -> None:
        self.steps = steps
        self._source = source
        self._watcher = watcher
        if source.run is not None:
            # Scores of the run itself count as made only with as many threads.
            torch.set_num_threads(source.run.info["threads"])
        self.base: Base = open_at_base(
            source, steps[-1], watcher, RebuildOptions(model=model, device=device)
        )
        self.loaded = self.base.loaded

    def version(self, step: int) -> ModelVersion:
        """Return base and journal up to `step`."""
        journal = self._source.record.checksums[step] if step else ""
        return ModelVersion(base=self.base.identity, journal=journal)

    def at(self, step: int) -> PreTrainedModel:
        """Rebuild `step`, unless the weights are there already."""
        if step > self.base.drift.steps:
            bring_to(self.base, self._source, step, self._watcher)
        return self.loaded.model


class QuantizedModels:
    """Models as they are loaded in 4 or 8 bits.

    Args:
        models: in full.
        load: one of `LOADS`.
        watcher: told of what takes a while.
    """

    def __init__(self, models: Models, load: str, watcher: Watcher) -> None:
        self.steps = models.steps
        self.loaded = models.loaded
        self._models = models
        self._load = load
        self._watcher = watcher
        self._made: tuple[int, PreTrainedModel] | None = None

    def version(self, step: int) -> ModelVersion:
        """Return which weights were quantized, and how."""
        return replace(self._models.version(step), load=self._load)

    def at(self, step: int) -> PreTrainedModel:
        """Return the quantized copy of `step`; one at a time is kept."""
        if self._made is None or self._made[0] != step:
            self._made = None
            release(self.loaded.device)
            self._models.at(step)
            self._watcher.phase(f"step {step}: loading it as {self._load}")
            self._made = step, quantized_copy(self.loaded, self._load)
        return self._made[1]


def one_model(id: str, dtype: str | None, device: str | None, watcher: Watcher) -> OneModel:
    """Load a model that is measured by itself."""
    watcher.phase(f"loading {id}")
    return OneModel(load_model(id, dtype=dtype, device=device))
