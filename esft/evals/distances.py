"""How far the models of some steps are from the base: in weights, and in what they say."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from esft.engine.forecast import forecast_of
from esft.engine.measures import measures
from esft.evals.kl import (
    KlSettings,
    SampledContinuations,
    kl_between,
    prompts_of,
    sampled_continuations,
)
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
from esft.rollout.evaluate import Cache, scoring_settings
from esft.tuning.rebuild import Source
from esft.tuning.watcher import Watcher

T = TypeVar("T")


class Distances:
    """Measures the drift and the KL of steps, one after the other; what is known stays known.

    Args:
        source: of the run.
        steps: of the run.
        tasks: on the first `prompts` prompts of each prior one the models go on, by up to
            `tokens` tokens; with 0 prompts the KL is left out.
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
        self.drift.append(self._cached(StepDrift, (step, device.type), partial(self._drift, step)))
        for task in self._tasks:
            settings = KlSettings(
                prompts=prompts_of(task.encoded, self._prompts),
                max_new_tokens=self._tokens,
                batches=Batches(task.rollout.batches.size),
            )
            key = (step, scoring_settings(task.rollout), settings.prompts)
            key = (*key, self._tokens, settings.seed, settings.top)
            pair = self._cached(KlPair, key, partial(self._kl, step, task.name, settings))
            self.kl[task.name].append(pair)

    def _cached(self, kind: type[T], key: tuple, make: Callable[[], T]) -> T:
        """Return what was measured before, else what `make` returns, as it is read back."""
        key = (kind.__name__, EVAL_FORMAT, self._steps.version(key[0]), *key)
        kept = self._cache.get(key)
        if kept is None:
            kept = to_json(make())
            self._cache.put(key, kept)
        return from_json(kind, kept)

    def _drift(self, step: int) -> StepDrift:
        self._steps.at(step)
        measured = measures(self._steps.base.drift)
        return StepDrift(
            step=step,
            norm=known(measured.norm),
            forecast=known(self._forecast[step]),
            zero_share=measured.zero_share,
            unmoved_share=measured.unmoved_share,
            layers=tuple(
                DriftInLayer(name=layer.name, norm=known(layer.norm), numel=layer.numel)
                for layer in measured.layers
            ),
        )

    def _kl(self, step: int, task: str, settings: KlSettings) -> KlPair:
        self._steps.at(step)
        self._watcher.phase(f"step {step}: KL on {len(settings.prompts)} prompts of {task}")
        drift, loaded = self._steps.base.drift, self._steps.loaded
        model, tokenizer = loaded.model, loaded.tokenizer
        if task not in self._at_base:
            with drift.at_base():
                drawn = sampled_continuations(model, tokenizer, settings, "base")
            self._at_base[task] = drawn
        pair = kl_between(model, tokenizer, drift, settings, self._at_base[task])
        return KlPair(step=step, base_to_tuned=pair[0], tuned_to_base=pair[1])
