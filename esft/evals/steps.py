"""The models that are measured: one by itself, the steps of a run, either of them quantized."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from esft.engine.weights import identity
from esft.evals.quantized import quantized_copy
from esft.rollout.evaluate import ModelVersion
from esft.tuning.rebuild import RebuildOptions, Source, bring_to, open_at_base

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from esft.models.load import LoadedModel
    from esft.tuning.watcher import Watcher


class Steps:
    """Models that share one place in memory; here a single one, without a run.

    Args:
        loaded: with its weights as they are.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.numbers: tuple[int, ...] = (0,)
        """In rising order; 0 is the base model."""
        self.loaded = loaded
        self._base = identity(loaded.model)

    def version(self, step: int) -> ModelVersion:
        """Return which weights those of `step` are, without making them."""
        return ModelVersion(base=self._base, journal="")

    def at(self, step: int) -> PreTrainedModel:
        """Return the model of `step`, whose weights the next call changes; steps never fall."""
        return self.loaded.model


class RunSteps(Steps):
    """Steps of a run, rebuilt from its journal.

    Args:
        source: of the run.
        numbers: of the steps, in rising order, the first of them 0.
        watcher: told of progress.
        options: which base model, and where to.
    """

    def __init__(
        self,
        source: Source,
        numbers: tuple[int, ...],
        watcher: Watcher,
        options: RebuildOptions,
    ) -> None:
        if source.run is not None:
            # Scores of the run itself count as made only with as many threads.
            torch.set_num_threads(source.run.info["threads"])
        self.base = open_at_base(source, watcher, options)
        self.numbers = numbers
        self.loaded = self.base.loaded
        self._source = source
        self._watcher = watcher

    def version(self, step: int) -> ModelVersion:
        """Return base and journal up to `step`."""
        journal = self._source.record.checksums[step] if step else ""
        return ModelVersion(base=self.base.identity, journal=journal)

    def at(self, step: int) -> PreTrainedModel:
        """Rebuild `step`, unless the weights are there already."""
        if step > self.base.drift.steps:
            bring_to(self.base, self._source, step, self._watcher)
        return self.loaded.model


class QuantizedSteps(Steps):
    """Steps as they are loaded in 4 or 8 bits; one quantized copy at a time is kept.

    Args:
        steps: in full.
        load: "nf4" or "int8".
        watcher: told of what takes a while.
    """

    def __init__(self, steps: Steps, load: str, watcher: Watcher) -> None:
        self.numbers = steps.numbers
        self.loaded = steps.loaded
        self._steps = steps
        self._load = load
        self._watcher = watcher
        self._copy: tuple[int, PreTrainedModel] | None = None

    def version(self, step: int) -> ModelVersion:
        """Return which weights were quantized, and how."""
        return replace(self._steps.version(step), load=self._load)

    def at(self, step: int) -> PreTrainedModel:
        """Return the quantized copy of `step`."""
        if self._copy is None or self._copy[0] != step:
            self._copy = None  # its memory goes before the next one takes as much
            if self.loaded.device.type == "cuda":
                torch.cuda.empty_cache()
            self._steps.at(step)
            self._watcher.phase(f"step {step}: loading it as {self._load}")
            self._copy = step, quantized_copy(self.loaded, self._load)
        return self._copy[1]
