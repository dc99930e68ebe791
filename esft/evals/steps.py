"""The models that are measured: one by itself, the steps of a run, any of them quantized."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from esft.engine.forecast import forecast_of
from esft.engine.largest import largest
from esft.engine.measures import measures
from esft.engine.weights import identity
from esft.errors import ModelError
from esft.evals.results import ComparedModel, StepDrift
from esft.files import writing
from esft.models.calling import quiet
from esft.models.load import LoadedModel
from esft.models.save import write_model
from esft.rollout.evaluate import ModelVersion
from esft.tuning.rebuild import RebuildOptions, Source, bring_to, open_at_base
from esft.tuning.watcher import Watcher

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Steps:
    """Models that share one place in memory; here a single one, without a run."""

    models: tuple[ComparedModel, ...] = ()  # those behind the base that are no steps of a run

    def __init__(self, loaded: LoadedModel) -> None:
        self.numbers: tuple[int, ...] = (0,)  # rising; 0 is the base model
        self.loaded = loaded  # the base model, or what was it before its weights went
        self._base = identity(loaded.model)

    def version(self, step: int) -> ModelVersion:
        """Return which weights those of `step` are, without making them."""
        return ModelVersion(base=self._base, parts=self.loaded.parts, journal="")

    def at(self, step: int) -> PreTrainedModel:
        """Return the model of `step`, whose weights the next call changes; steps never fall."""
        return self.loaded_at(step).model

    def loaded_at(self, step: int) -> LoadedModel:
        """Return the model of `step` with what belongs to it; as `at`."""
        return self.loaded

    def drift(self, step: int, percents: Sequence[float] = ()) -> StepDrift:
        """Return how far the weights of a step after the base are from it, and of a run which of
        its changes are the largest so many percent; ValueError where `has_drift` says no."""
        raise ValueError(f"step {step} has no drift: there is no run")

    def has_drift(self, step: int) -> bool:
        """Return whether `drift` can measure a step."""
        return False

    def has_kl(self, step: int) -> bool:
        """Return whether a step has a KL divergence from the base."""
        return False


class RunSteps(Steps):
    """Steps of a run, rebuilt from its journal; their numbers rise from 0."""

    def __init__(
        self, source: Source, numbers: tuple[int, ...], watcher: Watcher, options: RebuildOptions
    ) -> None:
        if source.run is not None:
            # Scores of the run itself count as made only with as many threads.
            torch.set_num_threads(source.run.info.threads)
        self._source, self._watcher = source, watcher
        self.base = open_at_base(source, watcher, options)
        self.numbers, self.loaded = numbers, self.base.loaded

    def drift(self, step: int, percents: Sequence[float] = ()) -> StepDrift:
        """Measure D, beside what the coefficients of the journal let expect."""
        self.loaded_at(step)
        drift = self.base.drift
        return StepDrift(
            step=step,
            forecast=forecast_of(self._source.record, self.base.weights.numel).norms[step],
            largest=largest(drift, percents) if percents else (),
            **vars(measures(drift)),
        )

    def has_drift(self, step: int) -> bool:
        """Return whether it is a step after the base."""
        return step > 0

    has_kl = has_drift

    def version(self, step: int) -> ModelVersion:
        """Return base and journal up to `step`."""
        journal = self._source.record.checksums[step] if step else ""
        return ModelVersion(base=self.base.identity, parts=self.loaded.parts, journal=journal)

    def loaded_at(self, step: int) -> LoadedModel:
        """Rebuild `step`, unless the weights are there already."""
        if step > self.base.drift.steps:
            bring_to(self.base, self._source, step, self._watcher)
        return self.loaded


class QuantizedSteps(Steps):
    """Steps as they are loaded in 4 or 8 bits; one quantized copy at a time is kept."""

    def __init__(self, steps: Steps, load: str, watcher: Watcher) -> None:
        self.numbers, self.loaded = steps.numbers, steps.loaded
        self._steps, self._load, self._watcher = steps, load, watcher
        self._copy: tuple[int, PreTrainedModel] | None = None

    @property
    def models(self) -> tuple[ComparedModel, ...]:
        """Those that were quantized."""
        return self._steps.models

    def version(self, step: int) -> ModelVersion:
        """Return which weights were quantized, and how."""
        return replace(self._steps.version(step), load=self._load)

    def at(self, step: int) -> PreTrainedModel:
        """Return the quantized copy of `step`."""
        if self._copy is None or self._copy[0] != step:
            self._copy = None  # its memory goes before the next one takes as much
            torch.cuda.empty_cache()  # nothing on a CPU
            loaded = self._steps.loaded_at(step)
            self._watcher.phase(f"step {step}: loading it as {self._load}")
            self._copy = step, quantized_copy(loaded, self._load)
        return self._copy[1]


def quantized_copy(loaded: LoadedModel, load: str) -> PreTrainedModel:
    """Return a copy of a model with its linear layers quantized, on the same device.

    "nf4" takes 4 bits: quantiles of a normal distribution, in blocks; "int8" a scale a row
    (LLM.int8). It is saved and loaded from there, as users of the checkpoint would.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    in_4_bits = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": loaded.dtype}
    settings = {"load_in_4bit": True, **in_4_bits} if load == "nf4" else {"load_in_8bit": True}
    with tempfile.TemporaryDirectory(prefix="esft-quantized-") as folder:
        with writing(Path(folder)):
            write_model(loaded, Path(folder))
        try:
            with quiet():
                model = AutoModelForCausalLM.from_pretrained(
                    folder,
                    quantization_config=BitsAndBytesConfig(**settings),
                    device_map={"": loaded.device},
                    dtype=loaded.dtype,
                )
        except (ImportError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"the model cannot be loaded as {load} on {loaded.device}: {error}",
                hint="bitsandbytes supports cuda, and the CPU from version 0.46 on",
            ) from error
    return model.eval().requires_grad_(False)
