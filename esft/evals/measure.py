"""What is measured of a step: scores, drift and KL divergence, nothing of it twice."""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TypeVar

from esft.evals.kl import kl_between
from esft.evals.results import EVAL_FORMAT, KlPair, NoiseFloor, StepDrift
from esft.evals.steps import RunSteps, Steps
from esft.rollout.batches import Batches
from esft.rollout.cache import Cache
from esft.rollout.encode import EncodedRow
from esft.rollout.evaluate import evaluate, scoring_settings
from esft.rollout.kl import (
    KlEstimate,
    KlSettings,
    TokenDistributions,
    estimate,
    prompts_of,
    sampled_continuations,
    told_again,
)
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

    Drift and KL divergence are those of steps that have them, see `Steps`. The rows of a task are
    shared out to `ranks`, where there are some.
    """

    def __init__(self, steps: Steps, watcher: Watcher, ranks: Ranks | None = None) -> None:
        self._steps, self._watcher, self._ranks = steps, watcher, ranks
        self._cache = Cache()
        self._at_base: dict[str, list[TokenDistributions]] = {}

    def evaluation(self, step: int, task: EvalTask) -> Evaluation:
        """Return what a step scores on a task, or on one with `sampling`."""

        def rebuilt() -> Rollout:
            model = self._steps.at(step)
            counted = "rows" if task.rollout.temperature is None else "sampled answers"
            self._watcher.phase(f"step {step}: {task.name}, {len(task.encoded)} {counted}")
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
        what["sampled"] = task.rollout.temperature is not None
        made, size = score_together(self._ranks, at_step, parts, alike, **what)
        task.rollout.batches.size = size
        return made

    def noise_floor(self, tasks: Sequence[EvalTask]) -> NoiseFloor:
        """Score the base model again in batches of half the size; before any later step."""
        changed = {}
        for task in tasks:
            batch = task.rollout.batches.size
            half = max(1, batch // 2)
            rollout = copy(task.rollout)  # not made anew: its model may be out of memory by now
            rollout.batches = Batches(half)
            halved = replace(task, rollout=rollout)
            twice = (self.evaluation(0, task).results, self.evaluation(0, halved).results)
            pairs = zip(*twice, strict=True)
            changed[task.name] = sum(one.correct != other.correct for one, other in pairs)
        rows = sum(len(task.encoded) for task in tasks)
        text = (
            f"the base model in batches of {half} instead of {batch}: "
            f"{sum(changed.values())} of {rows} rows change between right and wrong"
        )
        return NoiseFloor(text=text, changed=changed, rows=rows)

    def drift(self, step: int, percents: Sequence[float] = ()) -> StepDrift:
        """Return how far the weights of a step are from the base, as `Steps.drift`."""
        key = (step, self._steps.loaded.device.type, *percents)
        return self._cached(StepDrift, key, lambda: self._steps.drift(step, percents))

    def kls(self, step: int, tasks: Sequence[EvalTask], prompts: int, tokens: int) -> list[KlPair]:
        """Return how far a step's continuations of the first prompts of tasks are from the base's;
        ranks, where there are some, share the tasks out."""
        if self._ranks is None:
            return self._own_kls(step, tasks, prompts, tokens)
        shares = deal([1] * len(tasks), [1.0] * self._ranks.place.world)
        names = [[tasks[number].name for number in share] for share in shares]
        self._ranks.send("kl", step=step, names=names, prompts=prompts, tokens=tokens)
        began = monotonic()
        with self._ranks.heeding():
            own = self._own_kls(step, [tasks[n] for n in shares[0]], prompts, tokens)
            pairs = dict(zip(shares[0], own, strict=True))
        replies = self._ranks.replies(monotonic() - began)
        for share, made in zip(shares[1:], replies, strict=True):
            pairs |= zip(share, (from_json(KlPair, one) for one in made), strict=True)
        return [pairs[number] for number in range(len(tasks))]

    def _own_kls(
        self, step: int, tasks: Sequence[EvalTask], prompts: int, tokens: int
    ) -> list[KlPair]:
        settings = {
            task.name: KlSettings(
                prompts=prompts_of(task.encoded, prompts),
                max_new_tokens=tokens,
                batches=Batches(task.rollout.batches.size),
            )
            for task in tasks
        }
        keys = {
            task.name: (step, scoring_settings(task.rollout), of.prompts, tokens, of.seed, of.top)
            for task, of in zip(tasks, settings.values(), strict=True)
        }
        made: dict[str, KlPair] = {}

        def measured(name: str) -> KlPair:
            if name not in made:
                # Where the base is loaded anew for it, of all tasks at once that were not measured.
                missing = [one for one in keys if self._kept(KlPair, keys[one]) is None]
                missing = [name] if isinstance(self._steps, RunSteps) else missing
                pairs = self._divergences(step, {one: settings[one] for one in missing})
                for one, (there, back) in pairs.items():
                    made[one] = KlPair(step=step, base_to_tuned=there, tuned_to_base=back)
            return made[name]

        return [self._cached(KlPair, key, partial(measured, name)) for name, key in keys.items()]

    def _divergences(
        self, step: int, tasks: dict[str, KlSettings]
    ) -> dict[str, tuple[KlEstimate, KlEstimate]]:
        """Return (KL(p0||p), KL(p||p0)) of tasks by name; see `kl_between`."""
        steps, drawn, tokenizer = self._steps, self._at_base, self._steps.loaded.tokenizer
        model = steps.at(step)
        prompts = ", ".join(f"{len(of.prompts)} prompts of {name}" for name, of in tasks.items())
        self._watcher.phase(f"step {step}: KL on {prompts}")
        if isinstance(steps, RunSteps):
            drift, pairs = steps.base.drift, {}
            for name, of in tasks.items():
                if name not in drawn:
                    with drift.at_base():
                        drawn[name] = sampled_continuations(model, tokenizer, of, "base")
                pairs[name] = kl_between(model, tokenizer, drift, of, drawn[name])
            return pairs
        tuned = {n: sampled_continuations(model, tokenizer, of, "tuned") for n, of in tasks.items()}
        base = steps.at(0)  # from here on `model` has no weights
        for name, of in tasks.items():
            if name not in drawn:
                drawn[name] = sampled_continuations(base, tokenizer, of, "base")
        back = {name: told_again(base, tuned[name], of) for name, of in tasks.items()}
        model = steps.at(step)
        there = {name: told_again(model, drawn[name], of) for name, of in tasks.items()}
        return {n: (estimate(drawn[n], there[n]), estimate(tuned[n], back[n])) for n in tasks}

    def _kept(self, kind: type, key: tuple) -> object | None:
        """Return what was measured before, as JSON has it."""
        return self._cache.get(self._named(kind, key))

    def _named(self, kind: type, key: tuple) -> tuple:
        versions = [self._steps.version(step) for step in (0, key[0])]
        return (kind.__name__, EVAL_FORMAT, *versions, *key)

    def _cached(self, kind: type[T], key: tuple, make: Callable[[], T]) -> T:
        """Return what was measured before, else what `make` returns, as it is read back."""
        kept = self._kept(kind, key)
        if kept is None:
            kept = to_json(make())
            self._cache.put(self._named(kind, key), kept)
        return from_json(kind, kept)
