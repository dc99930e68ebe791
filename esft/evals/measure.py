"""What is measured of a step: scores, drift and KL divergence, nothing of it twice."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TypeVar

from esft.engine.measures import measures
from esft.evals.kl import (
    KlSettings,
    TokenDistributions,
    kl_between,
    prompts_of,
    sampled_continuations,
)
from esft.evals.results import EVAL_FORMAT, KlPair, NoiseFloor, StepDrift
from esft.evals.steps import Steps
from esft.rollout.batches import Batches
from esft.rollout.cache import Cache
from esft.rollout.encode import EncodedRow
from esft.rollout.evaluate import evaluate, scoring_settings
from esft.rollout.results import Evaluation, RowResult
from esft.rollout.rollout import Rollout
from esft.rollout.typed import from_json, to_json
from esft.tuning.lead import deal, score_together
from esft.tuning.ranks import Ranks
from esft.tuning.tasks import EvalTask
from esft.tuning.watcher import Watcher

T = TypeVar("T")


class Measurer:
    """Measures steps in rising order; what was measured before is read from the cache.

    Drift and KL divergence are those of the steps of a run (`RunSteps`) after the base. The rows of
    a task are shared out to `ranks`, where there are some.
    """

    def __init__(self, steps: Steps, watcher: Watcher, ranks: Ranks | None = None) -> None:
        self._steps, self._watcher, self._ranks = steps, watcher, ranks
        self._cache = Cache()
        self._at_base: dict[str, list[TokenDistributions]] = {}

    def evaluation(self, step: int, task: EvalTask) -> Evaluation:
        """Return what a step scores on a task."""

        def rebuilt() -> Rollout:
            model = self._steps.at(step)
            self._watcher.phase(f"step {step}: {task.name}, {len(task.encoded)} rows")
            return replace(task.rollout, model=model)

        version = self._steps.version(step)
        score = None if self._ranks is None else partial(self._score, step, task)
        return evaluate(task.rollout, task.encoded, self._cache, version, rebuilt, score)

    def _score(
        self, step: int, task: EvalTask, parts: Sequence[Sequence[EncodedRow]]
    ) -> Iterable[list[RowResult]]:
        """Score parts of a task's rows on all ranks."""
        at_step = replace(task, rollout=replace(task.rollout, model=self._steps.at(step)))
        alike = [1.0] * self._ranks.place.world
        what = {"step": step, "name": task.name, "batch": task.rollout.batches.size}
        made, size = score_together(self._ranks, at_step, parts, alike, **what)
        task.rollout.batches.size = size
        return made

    def noise_floor(self, tasks: Sequence[EvalTask]) -> NoiseFloor:
        """Score the base model again in batches of half the size; before any later step."""
        changed = {}
        for task in tasks:
            batch = task.rollout.batches.size
            half = max(1, batch // 2)
            halved = replace(task, rollout=replace(task.rollout, batches=Batches(half)))
            twice = (self.evaluation(0, task).results, self.evaluation(0, halved).results)
            pairs = zip(*twice, strict=True)
            changed[task.name] = sum(one.correct != other.correct for one, other in pairs)
        rows = sum(len(task.encoded) for task in tasks)
        text = (
            f"the base model in batches of {half} instead of {batch}: "
            f"{sum(changed.values())} of {rows} rows change between right and wrong"
        )
        return NoiseFloor(text=text, changed=changed, rows=rows)

    def drift(self, step: int) -> StepDrift:
        """Return how far the weights of a step are from the base."""

        def measured() -> StepDrift:
            self._steps.at(step)
            forecast = self._steps.forecast(step)
            return StepDrift(step=step, forecast=forecast, **vars(measures(self._steps.base.drift)))

        return self._cached(StepDrift, (step, self._steps.loaded.device.type), measured)

    def kls(self, step: int, tasks: Sequence[EvalTask], prompts: int, tokens: int) -> list[KlPair]:
        """Return `kl` of several tasks, which ranks share out where there are some."""
        if self._ranks is None:
            return [self.kl(step, task, prompts, tokens) for task in tasks]
        shares = deal([1] * len(tasks), [1.0] * self._ranks.place.world)
        names = [[tasks[number].name for number in share] for share in shares]
        self._ranks.send("kl", step=step, names=names, prompts=prompts, tokens=tokens)
        began = monotonic()
        with self._ranks.heeding():
            pairs = {n: self.kl(step, tasks[n], prompts, tokens) for n in shares[0]}
        replies = self._ranks.replies(monotonic() - began)
        for share, made in zip(shares[1:], replies, strict=True):
            pairs |= zip(share, (from_json(KlPair, one) for one in made), strict=True)
        return [pairs[number] for number in range(len(tasks))]

    def kl(self, step: int, task: EvalTask, prompts: int, tokens: int) -> KlPair:
        """Return how far a step's continuations of a task's first prompts are from the base's."""
        settings = KlSettings(
            prompts=prompts_of(task.encoded, prompts),
            max_new_tokens=tokens,
            batches=Batches(task.rollout.batches.size),
        )

        def measured() -> KlPair:
            model, tokenizer = self._steps.at(step), self._steps.loaded.tokenizer
            drift, name = self._steps.base.drift, task.name
            self._watcher.phase(f"step {step}: KL on {len(settings.prompts)} prompts of {name}")
            if name not in self._at_base:
                with drift.at_base():
                    drawn = sampled_continuations(model, tokenizer, settings, "base")
                self._at_base[name] = drawn
            pair = kl_between(model, tokenizer, drift, settings, self._at_base[name])
            return KlPair(step=step, base_to_tuned=pair[0], tuned_to_base=pair[1])

        scoring = scoring_settings(task.rollout)
        key = (step, scoring, settings.prompts, tokens, settings.seed, settings.top)
        return self._cached(KlPair, key, measured)

    def _cached(self, kind: type[T], key: tuple, make: Callable[[], T]) -> T:
        """Return what was measured before, else what `make` returns, as it is read back."""
        key = (kind.__name__, EVAL_FORMAT, self._steps.version(key[0]), *key)
        kept = self._cache.get(key)
        if kept is None:
            kept = to_json(make())
            self._cache.put(key, kept)
        return from_json(kind, kept)
