"""The evaluations of a run: target and prior tasks at some of its steps."""

import math

from esft.engine.journal import Journal
from esft.errors import RunError
from esft.rollout.evaluate import Cache, ModelVersion, evaluate
from esft.rollout.results import Evaluation
from esft.runs.folder import RunFolder
from esft.runs.records import best_step, evaluation, summaries
from esft.tuning.session import Session
from esft.tuning.tasks import EvalTask
from esft.tuning.watcher import Failures, TaskScores, Watcher


class Evaluations:
    """Evaluates what is not on record yet, and knows the best step.

    Weights and journal are at the step that is evaluated; step 0 alone is evaluated at any time.
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
        tasks = self._session.tasks
        recorded = {line["task"]: line for line in self._recorded if line["step"] == step}
        if any(task.name not in recorded for task in tasks):
            priors = f" and {len(tasks) - 1} prior tasks" if len(tasks) > 1 else ""
            rows = len(tasks[0].encoded)
            self._watcher.phase(f"scoring {rows} holdout rows{priors} at step {step}")
        evaluations = tuple(
            evaluation(self._run.path, recorded[task.name])
            if task.name in recorded
            else self._evaluate(step, task)
            for task in tasks
        )
        if step == 0:
            self._base = evaluations
        return evaluations

    def scores(self, step: int) -> tuple[TaskScores, ...]:
        """Return `at` beside the evaluations of the base, the target first."""
        return tuple(
            TaskScores(name=task.name, base=base, now=now)
            for task, base, now in zip(self._session.tasks, self._base, self.at(step), strict=True)
        )

    def _evaluate(self, step: int, task: EvalTask) -> Evaluation:
        base, rollout, rows = self._session.base, task.rollout, task.encoded
        checksum = self._journal.checksum if step else ""
        model = ModelVersion(base=base.identity, journal=checksum)
        if step == 0:
            # A run that lost its first evaluation makes it again with D set aside.
            with base.drift.at_base():
                result = evaluate(rollout, rows, self._cache, model)
        else:
            result = evaluate(rollout, rows, self._cache, model)
        if step == 0 and task.role == "target" and math.isnan(result.reward):
            raise RunError(
                f"the base model gives NaN on holdout rows in {base.loaded.dtype}, "
                "expected finite logits: its activations overflow",
                hint="take --dtype bfloat16 or float32",
            )
        self._failures.add(f"{task.name} at step {step}", rows, result.results)
        summary = {"step": step, "task": task.name, "role": task.role} | result.summary()
        self._run.record_evaluation(summary, result.row_records([one.row for one in rows]))
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
