"""Prior tasks and target on some steps of a run, nothing scored twice."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from esft.evals.models import Models
from esft.evals.results import NoiseFloor
from esft.evals.subjects import Subject
from esft.rollout.batches import Batches
from esft.rollout.cache import EvaluationCache, Remembered, scoring_settings
from esft.rollout.evaluate import evaluate
from esft.rollout.results import Evaluation
from esft.tuning.watcher import Watcher


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A task on every step."""

    subject: Subject
    evaluations: tuple[Evaluation, ...]
    """One a step, in the order of the steps."""


class Evaluator:
    """Scores tasks on the models of some steps.

    Args:
        models: whose weights change from step to step.
        subjects: what is measured.
        cache: of evaluations made before.
        watcher: told of what takes a while.
    """

    def __init__(
        self,
        models: Models,
        subjects: tuple[Subject, ...],
        cache: EvaluationCache,
        watcher: Watcher,
    ) -> None:
        self._models = models
        self._subjects = subjects
        self._cache = cache
        self._watcher = watcher

    def run(self, after: Callable[[int], None]) -> tuple[Measured, ...]:
        """Measure every task on every step.

        Args:
            after: called with each step once its tasks are measured; what it needs of the
                weights it asks of the models.
        """
        found = []
        for step in self._models.steps:
            found.append([self._evaluation(step, subject) for subject in self._subjects])
            after(step)
        return tuple(
            Measured(subject=subject, evaluations=tuple(of_step[i] for of_step in found))
            for i, subject in enumerate(self._subjects)
        )

    def noise_floor(self) -> NoiseFloor:
        """Score the base model again in batches of half the size; before any later step."""
        changed, sizes = {}, (0, 0)
        for subject in self._subjects:
            batch = subject.rollout.batches.size
            sizes = (batch, max(1, batch // 2))
            first = self._evaluation(0, subject)
            again = self._evaluation(0, _with_batch(subject, sizes[1]))
            changed[subject.name] = sum(
                left.correct != right.correct
                for left, right in zip(first.results, again.results, strict=True)
            )
        rows = sum(len(subject.encoded.rows) for subject in self._subjects)
        text = (
            f"the base model in batches of {sizes[1]} instead of {sizes[0]}: "
            f"{sum(changed.values())} of {rows} rows change between right and wrong"
        )
        return NoiseFloor(text=text, changed=changed, rows=rows)

    def _evaluation(self, step: int, subject: Subject) -> Evaluation:
        models, rollout, encoded = self._models, subject.rollout, subject.encoded
        settings = scoring_settings(rollout, models.loaded.device)
        memory = Remembered(self._cache, models.version(step), settings, encoded.rows)
        if len(memory.known()) < len(encoded.rows):
            rollout = rollout.on(models.at(step))
            count = len(encoded.rows)
            self._watcher.phase(f"step {step}: {subject.name}, {count} rows")
        return evaluate(rollout, encoded, memory)


def _with_batch(subject: Subject, size: int) -> Subject:
    return replace(subject, rollout=subject.rollout.with_batches(Batches(size)))
