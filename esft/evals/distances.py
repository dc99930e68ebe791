"""How far the models of some steps are from the base: in weights, and in what they say."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from esft.engine.forecast import forecast_of
from esft.engine.measures import measures
from esft.evals.kl import TOP, SampledContinuations, kl_between, prompts_of, sampled_at_base
from esft.evals.results import (
    EVAL_FORMAT,
    DriftInLayer,
    KlPair,
    StepDrift,
    from_json,
    known,
    to_json,
)
from esft.evals.steps import RunSteps
from esft.evals.tasks import EvalTask
from esft.rollout.batches import Batches
from esft.rollout.cache import Cache
from esft.rollout.evaluate import scoring_settings
from esft.tuning.rebuild import Source
from esft.tuning.watcher import Watcher

SEED = 0
"""Of the draws: all runs are compared on the same ones."""

T = TypeVar("T")


class Distances:
    """Measures the drift and the KL of steps, one after the other; what is known stays known.

    Args:
        source: of the run.
        steps: of the run.
        tasks: on the prompts of the prior ones the models go on.
        prompts: how many of each; 0 leaves the KL out.
        tokens: new tokens of a continuation, at most.
        watcher: told of what takes a while.
    """

    def __init__(
        self,
        source: Source,
        steps: RunSteps,
        tasks: Sequence[EvalTask],
        prompts: int,
        tokens: int,
        watcher: Watcher,
    ) -> None:
        self._steps = steps
        self._tasks = [task for task in tasks if task.role == "prior"] if prompts else []
        self._prompts, self._tokens = prompts, tokens
        self._watcher = watcher
        self._cache = Cache()
        self._forecast = forecast_of(source.record, steps.base.weights.numel).norms
        self._at_base: dict[str, SampledContinuations] = {}
        self.drift: list[StepDrift] = []
        self.kl: dict[str, list[KlPair]] = {task.name: [] for task in tasks}
        """By task."""

    def measure(self, step: int) -> None:
        """Measure a step, which is not the base."""
        device = self._steps.loaded.device
        drift = self._cached(StepDrift, (step, device.type), lambda: self._drift_at(step))
        self.drift.append(drift)
        for task in self._tasks:
            prompts = prompts_of(task.encoded, self._prompts)
            key = (step, scoring_settings(task.rollout, device), prompts, self._tokens, SEED, TOP)
            pair = self._cached(
                KlPair, key, lambda task=task, prompts=prompts: self._kl_at(step, task, prompts)
            )
            self.kl[task.name].append(pair)

    def _cached(self, kind: type[T], key: tuple, make: Callable[[], T]) -> T:
        """Return what was measured before, else what `make` returns, as it is read back."""
        key = (kind.__name__, EVAL_FORMAT, self._steps.version(key[0]), *key)
        kept = self._cache.get(key)
        if kept is None:
            kept = to_json(make())
            self._cache.put(key, kept)
        return from_json(kind, kept)

    def _drift_at(self, step: int) -> StepDrift:
        self._steps.at(step)
        found = measures(self._steps.base.drift)
        return StepDrift(
            step=step,
            norm=known(found.norm),
            forecast=known(self._forecast[step]),
            zero_share=found.zero_share,
            unmoved_share=found.unmoved_share,
            layers=tuple(
                DriftInLayer(name=layer.name, norm=known(layer.norm), numel=layer.numel)
                for layer in found.layers
            ),
        )

    def _kl_at(self, step: int, task: EvalTask, prompts: list[tuple[int, ...]]) -> KlPair:
        self._steps.at(step)
        self._watcher.phase(f"step {step}: KL on {len(prompts)} prompts of {task.name}")
        loaded, drift = self._steps.loaded, self._steps.base.drift
        settings = (prompts, self._tokens, Batches(task.rollout.batches.size), SEED)
        if task.name not in self._at_base:
            with drift.at_base():
                self._at_base[task.name] = sampled_at_base(
                    loaded.model, loaded.tokenizer, *settings
                )
        base_to_tuned, tuned_to_base = kl_between(
            loaded.model, loaded.tokenizer, drift, *settings, base=self._at_base[task.name]
        )
        return KlPair(step=step, base_to_tuned=base_to_tuned, tuned_to_base=tuned_to_base)
