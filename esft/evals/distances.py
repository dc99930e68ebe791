"""How far the models of some steps are from the base: in weights, and in what they say."""

from dataclasses import asdict

from esft.engine.forecast import forecast_of
from esft.engine.measures import measures
from esft.evals.distance_cache import DistanceCache
from esft.evals.kl import TOP, Drawn, drawn_at_base, kl_between, prompts_of
from esft.evals.models import RunModels
from esft.evals.results import KlPair, StepDrift, from_json, known
from esft.evals.subjects import Subject
from esft.rollout.batches import Batches
from esft.rollout.cache import scoring_settings
from esft.runs.records import finite
from esft.tuning.rebuild import Source
from esft.tuning.watcher import Watcher

SEED = 0
"""Of the draws: all runs are compared on the same ones."""


DRIFT = ("norm", "zero_share", "unmoved_share", "layers")
"""What is kept of the drift of a step."""

WAYS = ("base_to_tuned", "tuned_to_base")
"""KL(p0||p) and KL(p||p0)."""


class Distances:
    """Measures each step once its tasks are measured.

    Args:
        source: of the run.
        models: its steps.
        subjects: whose prompts the models go on from.
        prompts: how many of each prior task; 0 leaves the KL out.
        tokens: new tokens of a continuation, at most.
        watcher: told of what takes a while.
    """

    def __init__(
        self,
        source: Source,
        models: RunModels,
        subjects: tuple[Subject, ...],
        prompts: int,
        tokens: int,
        watcher: Watcher,
    ) -> None:
        self._models = models
        self._subjects = [each for each in subjects if each.role == "prior"] if prompts else []
        self._prompts, self._tokens = prompts, tokens
        self._watcher = watcher
        self._cache = DistanceCache()
        self._drawn: dict[str, Drawn] = {}
        self._forecast = forecast_of(source.record, models.base.weights.numel).norms
        self.drift: list[StepDrift] = []
        self.kl: dict[str, list[KlPair]] = {subject.name: [] for subject in subjects}
        """By task."""

    def measure(self, step: int) -> None:
        """Measure a step; of the base there is nothing to measure."""
        if step == 0:
            return
        path = self._cache.path(
            "drift", self._models.version(step), self._models.loaded.device.type
        )
        found = self._cache.known(path, DRIFT)
        if found is None:
            found = self._drift_at(step)
            self._cache.keep(path, found)
        own = {"step": step, "forecast": known(self._forecast[step])}
        self.drift.append(from_json(StepDrift, own | found))
        for subject in self._subjects:
            self._measure_kl(step, subject)

    def _drift_at(self, step: int) -> dict[str, object]:
        self._models.at(step)
        base = self._models.base
        found = measures(base.drift)
        figures = (found.norm, found.zero_share, found.unmoved_share)
        layers = [asdict(layer) for layer in found.layers]
        return finite(dict(zip(DRIFT, figures, strict=False))) | {"layers": layers}

    def _measure_kl(self, step: int, subject: Subject) -> None:
        prompts = prompts_of(subject.encoded, self._prompts)
        settings = scoring_settings(subject.rollout, self._models.loaded.device)
        key = ("kl", self._models.version(step), settings, prompts, self._tokens, SEED, TOP)
        path = self._cache.path(*key)
        found = self._cache.known(path, WAYS)
        if found is None:
            self._models.at(step)
            self._watcher.phase(f"step {step}: KL on {len(prompts)} prompts of {subject.name}")
            found = self._kl_of(subject, prompts)
            self._cache.keep(path, found)
        self.kl[subject.name].append(from_json(KlPair, {"step": step} | found))

    def _kl_of(self, subject: Subject, prompts: list[tuple[int, ...]]) -> dict[str, dict]:
        """Return the divergences of the model as it is, as eval.json has them."""
        loaded, drift = self._models.loaded, self._models.base.drift
        batches = Batches(subject.rollout.batches.size)
        given = (loaded.model, loaded.tokenizer)
        if subject.name not in self._drawn:
            with drift.at_base():
                self._drawn[subject.name] = drawn_at_base(
                    *given, prompts, self._tokens, batches, SEED
                )
        there, back = kl_between(
            *given, drift, prompts, self._tokens, batches, SEED, base=self._drawn[subject.name]
        )
        return dict(zip(WAYS, (finite(asdict(each)) for each in (there, back)), strict=True))
