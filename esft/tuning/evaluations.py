"""The evaluations of a run: target and prior tasks at some of its steps."""

import math
from collections.abc import Callable

from esft.errors import RunError
from esft.rollout.cache import EvaluationCache, ModelVersion, Remembered, scoring_settings
from esft.rollout.encode import EncodedRows
from esft.rollout.evaluate import evaluate
from esft.rollout.results import Evaluation
from esft.rollout.rollout import Rollout
from esft.runs.folder import RunFolder
from esft.runs.records import Best, best_of, evaluation, summaries
from esft.tuning.failures import Failures
from esft.tuning.session import Session
from esft.tuning.watcher import TaskScores, Watcher


class Evaluations:
    """Measures what is not on record yet, and knows the best step.

    Args:
        session: whose weights are at the step that is measured.
        run: where evaluations are recorded; those that are there count as made.
        watcher: told of what takes a while.
        failures: counts the answers without a score.
        checksum: returns that of the journal's line of the step that the weights are at.
    """

    def __init__(
        self,
        session: Session,
        run: RunFolder,
        watcher: Watcher,
        failures: Failures,
        checksum: Callable[[], str],
    ) -> None:
        self._session = session
        self._run = run
        self._watcher = watcher
        self._failures = failures
        self._checksum = checksum
        self._cache = EvaluationCache()
        self._recorded = summaries(run.path)
        self._base: tuple[Evaluation, ...] = ()

    @property
    def best(self) -> Best | None:
        """The step with the best holdout reward; None where none is finite."""
        return best_of(self._recorded)

    def due(self, step: int) -> bool:
        """Return whether target and prior tasks are to be measured after `step`, were it not the
        last."""
        every = self._session.recipe.prior.every
        return step == 0 or (every is not None and step % every == 0)

    def peaked(self) -> bool:
        """Return whether the recipe's number of evaluations went by without a new best."""
        patience = self._session.recipe.run.stop_after_peak
        if patience is None:
            return False
        # Only those that were due: one where a run was stopped must not change where it ends.
        counted = [each for each in self._recorded if self.due(each["step"])]
        best = best_of(counted)
        since = {
            each["step"]
            for each in counted
            if each["role"] == "target" and (best is None or each["step"] > best.step)
        }
        return len(since) >= patience

    def at(self, step: int) -> tuple[Evaluation, ...]:
        """Return target and prior tasks at `step`, where the weights are, measuring what is new."""
        session = self._session
        tasks = [("target", session.rollout, session.holdout)]
        tasks += [("prior", each.rollout, each.encoded) for each in session.priors]
        found = [self._on_record(step, rollout.task.name) for _, rollout, _ in tasks]
        if None in found:
            priors = f" and {len(session.priors)} prior tasks" if session.priors else ""
            rows = len(session.holdout.rows)
            self._watcher.phase(f"scoring {rows} holdout rows{priors} at step {step}")
        evaluations = tuple(
            self._measure(step, *task) if known is None else known
            for known, task in zip(found, tasks, strict=True)
        )
        if step == 0:
            self._base = evaluations
        return evaluations

    def scores(self, evaluations: tuple[Evaluation, ...]) -> tuple[TaskScores, ...]:
        """Return evaluations beside those of the base, the target first."""
        names = [self._session.task.name, *(prior.name for prior in self._session.priors)]
        return tuple(
            TaskScores(name=name, base=base, now=now)
            for name, base, now in zip(names, self._base, evaluations, strict=True)
        )

    def _on_record(self, step: int, task: str) -> Evaluation | None:
        for summary in self._recorded:
            if (summary["step"], summary["task"]) == (step, task):
                return evaluation(self._run.path, summary)
        return None

    def _measure(self, step: int, role: str, rollout: Rollout, rows: EncodedRows) -> Evaluation:
        task, memory = rollout.task.name, self._memory(step, rollout, rows)
        if step == 0:
            # A run that lost its first evaluation measures it with D set aside.
            with self._session.drift.at_base():
                found = evaluate(rollout, rows, memory)
        else:
            found = evaluate(rollout, rows, memory)
        if step == 0 and role == "target" and math.isnan(found.reward):
            raise RunError(
                f"the base model gives NaN on holdout rows in {self._session.loaded.dtype}, "
                "expected finite logits: its activations overflow",
                hint="take --dtype bfloat16 or float32",
            )
        self._failures.add(f"{task} at step {step}", rows, list(found.results))
        summary = {"step": step, "task": task, "role": role} | found.summary()
        self._run.record_evaluation(summary, found.rows(rows.rows))
        self._recorded.append(summary)
        return found

    def _memory(self, step: int, rollout: Rollout, rows: EncodedRows) -> Remembered:
        model = ModelVersion(
            base=self._session.base.identity, journal=self._checksum() if step else ""
        )
        settings = scoring_settings(rollout, self._session.loaded.device)
        return Remembered(self._cache, model, settings, rows.rows)
