"""What a run records, and in which order: line before step, model before evaluation."""

from dataclasses import asdict

from esft.engine.journal import Journal, JournalStep
from esft.engine.weights import identity
from esft.errors import EsftError
from esft.models.save import save_model
from esft.runs.folder import RunFolder
from esft.runs.records import metrics, summaries
from esft.runs.snapshots import Snapshots
from esft.tuning.evaluations import Evaluations
from esft.tuning.session import Session
from esft.tuning.watcher import Failures, StepMetrics, TaskScores, Watcher


class Recorder:
    """Journal, metrics, snapshots, evaluations and the model of a run, after each of its steps."""

    def __init__(
        self, session: Session, run: RunFolder, journal: Journal, watcher: Watcher
    ) -> None:
        self.run = run
        self.done = session.base.drift.steps
        """The last step that was made and recorded."""
        lines = [*metrics(run.path), *summaries(run.path)]
        self.failures = Failures(watcher, sum(line.get("grader_failures", 0) for line in lines))
        self._session = session
        self._journal = journal
        self._watcher = watcher
        self.evaluations = Evaluations(session, run, journal, self.failures, watcher)
        self._snapshots = Snapshots(run.path / "drift")
        self._splits: list[list[int]] = list(run.info["batches"])
        session.rollout.batches.on_split = self._record_split

    def over(self) -> bool:
        """Return whether no step is left: all are made, or the peak is behind."""
        return self.done >= self._session.recipe.search.steps or self.evaluations.peaked()

    def begin_step(self, line: JournalStep) -> None:
        """Record a step before it is made.

        A step that cannot be recorded is not made, and one that was recorded but not made is made
        again from the journal.
        """
        self._journal.append(line)

    def end_step(self, metrics: StepMetrics) -> None:
        """Record what a step did that was just made."""
        self.done = metrics.step
        self.run.record_metrics(asdict(metrics))

    def keep(self) -> None:
        """Take a snapshot, and evaluate, every so many steps."""
        recipe, done = self._session.recipe, self.done
        if done % recipe.run.snapshot_every == 0:
            self._snapshot()
        # The base is evaluated before the first step, the last step once the model is saved.
        if done not in (0, recipe.search.steps) and self.evaluations.due(done):
            self._watcher.evaluation(done, self.evaluations.scores(done))
            if self.evaluations.best_step == done:
                self._snapshot()

    def finish(self) -> tuple[TaskScores, ...]:
        """Save the model, evaluate it and close the run; return target and prior tasks."""
        state = "finished" if self.over() else "stopped"
        # First the model, then the evaluation: a second Ctrl-C in the latter loses nothing.
        self._save()
        self._snapshot()
        scores = self.evaluations.scores(self.done)
        self._snapshots.prune(self.evaluations.best_step)
        self.run.update_info(state=state)
        return scores

    def fail(self) -> None:
        """Save the model of the last step done, so that an error loses nothing."""
        try:
            if self.done:
                self._session.base.drift.refuse_if_torn()
                self._save()
            self.run.update_info(state="failed")
        except EsftError as error:
            self._watcher.notice(f"the model of step {self.done} was not saved: {error}")

    def _snapshot(self) -> None:
        """Keep the drift as it is, unless it is kept already."""
        if self.done and self.done not in self._snapshots.steps():
            self._snapshots.write(self._session.base.drift.state(), self._journal.checksum)
        self._snapshots.prune(self.evaluations.best_step)

    def _save(self) -> None:
        """Save the model and what it is, so that it can be told from that of another step."""
        weights = identity(self._session.base.loaded.model)
        saved = {"step": self.done, "weights": weights, "journal": self._journal.checksum}
        if self.run.info.get("saved") == saved and self.run.model_path.exists():
            return
        self._watcher.phase(f"saving the model to {self.run.model_path}")
        save_model(self._session.base.loaded, self.run.model_path, replace=True)
        self.run.update_info(saved=saved)

    def _record_split(self, size: int) -> None:
        self._splits.append([self.done, size])
        self.run.update_info(batches=self._splits)
        self._watcher.notice(
            f"memory ran out: from here on {size} sequences at a time (recorded in run.json)"
        )
