"""The evaluations of a run: target and prior tasks at some of its steps."""

import math

from esft.engine.journal import Journal
from esft.errors import RunError
from esft.rollout.cache import Cache
from esft.rollout.encode import EncodedRows
from esft.rollout.evaluate import EvaluationCache, ModelVersion, evaluate, scoring_settings
from esft.rollout.results import Evaluation
from esft.rollout.rollout import Rollout
from esft.runs.folder import RunFolder
from esft.runs.records import best_step, evaluation, summaries
from esft.tuning.session import Session
from esft.tuning.watcher import Failures, TaskScores, Watcher


class Evaluations:
    """Evaluates what is not on record yet, and knows the best step.

    Weights and journal are at the step that is evaluated; only step 0 can be had at any time.
    """

    def __init__(
        self,
        session: Session,
        run: RunFolder,
        journal: Journal,
        failures: Failures,
        watcher: Watcher,
    ) -> None:
        self._session = session
        self._run = run
        self._journal = journal
        self._failures = failures
        self._watcher = watcher
        self._cache = Cache()
        self._recorded = summaries(run.path)
        self._tasks = [("target", session.rollout, session.holdout)]
        self._tasks += [("prior", prior.rollout, prior.encoded) for prior in session.priors]
        self._base: tuple[Evaluation, ...] = ()

    @property
    def best_step(self) -> int | None:
        """The step with the best holdout reward; None where none is finite."""
        return best_step(self._recorded)

    def due(self, step: int) -> bool:
        """Return whether `step` is evaluated also where it is not the last."""
        every = self._session.recipe.prior.every
        return step == 0 or (every is not None and step % every == 0)

    def peaked(self) -> bool:
        """Return whether the recipe's number of evaluations went by without a new best."""
        # Only those that were due: one where a run was stopped must not change where it ends.
        due = [summary for summary in self._recorded if self.due(summary["step"])]
        return has_peaked(due, self._session.recipe.run.stop_after_peak)

    def at(self, step: int) -> tuple[Evaluation, ...]:
        """Return target and prior tasks at `step`, where the weights are; evaluate what is new."""
        known = [self._on_record(step, rollout.task.name) for _, rollout, _ in self._tasks]
        if None in known:
            priors = f" and {len(self._tasks) - 1} prior tasks" if len(self._tasks) > 1 else ""
            rows = len(self._session.holdout.rows)
            self._watcher.phase(f"scoring {rows} holdout rows{priors} at step {step}")
        evaluations = tuple(
            self._evaluate(step, *task) if on_record is None else on_record
            for on_record, task in zip(known, self._tasks, strict=True)
        )
        if step == 0:
            self._base = evaluations
        return evaluations

    def scores(self, step: int) -> tuple[TaskScores, ...]:
        """Return `at` beside the evaluations of the base, the target first."""
        return tuple(
            TaskScores(name=rollout.task.name, base=base, now=now)
            for (_, rollout, _), base, now in zip(
                self._tasks, self._base, self.at(step), strict=True
            )
        )

    def _on_record(self, step: int, task: str) -> Evaluation | None:
        for summary in self._recorded:
            if (summary["step"], summary["task"]) == (step, task):
                return evaluation(self._run.path, summary)
        return None

    def _evaluate(self, step: int, role: str, rollout: Rollout, rows: EncodedRows) -> Evaluation:
        session, task = self._session, rollout.task.name
        checksum = self._journal.checksum if step else ""
        model = ModelVersion(base=session.base.identity, journal=checksum)
        settings = scoring_settings(rollout, session.loaded.device)
        cache = EvaluationCache(self._cache, model, settings)
        if step == 0:
            # A run that lost its first evaluation makes it again with D set aside.
            with session.drift.at_base():
                result = evaluate(rollout, rows, cache)
        else:
            result = evaluate(rollout, rows, cache)
        if step == 0 and role == "target" and math.isnan(result.reward):
            raise RunError(
                f"the base model gives NaN on holdout rows in {session.loaded.dtype}, "
                "expected finite logits: its activations overflow",
                hint="take --dtype bfloat16 or float32",
            )
        self._failures.add(f"{task} at step {step}", rows, list(result.results))
        summary = {"step": step, "task": task, "role": role} | result.summary()
        self._run.record_evaluation(summary, result.row_records(rows.rows))
        self._recorded.append(summary)
        return result


def has_peaked(summaries: list[dict[str, object]], patience: int | None) -> bool:
    """Return whether the target was evaluated `patience` times since its best; None never ends."""
    best = best_step(summaries)
    since = {
        summary["step"]
        for summary in summaries
        if summary["role"] == "target" and (best is None or summary["step"] > best)
    }
    return patience is not None and len(since) >= patience
