"""What a run records, and in which order: line before step, model before evaluation."""

import math
import reprlib
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial

from esft.engine.journal import Back, Journal
from esft.engine.journal_read import JournalRecord
from esft.engine.weights import identity_as_saved
from esft.errors import EsftError, RunError
from esft.files import remove_folder
from esft.models.load import LoadedModel
from esft.models.save import save_model, small_files
from esft.rollout.cache import Cache
from esft.rollout.encode import EncodedRow
from esft.rollout.evaluate import ModelVersion, evaluate
from esft.rollout.results import Evaluation, RowResult
from esft.runs.budget import Spent
from esft.runs.folder import RunFolder
from esft.runs.records import (
    RecordedRow,
    RecordedScore,
    Saved,
    best_step,
    drop_after,
    evaluation,
    metrics,
    scores,
)
from esft.runs.snapshots import Snapshots
from esft.tuning.budget import budget_of, distance, nothing_within
from esft.tuning.peak import Peak, find_peak
from esft.tuning.population import Population
from esft.tuning.session import Session
from esft.tuning.tasks import EvalTask
from esft.tuning.watcher import TaskScores, Watcher


class Recorder:
    """Journal, metrics, snapshots, evaluations and the model of a run, after each of its steps."""

    def __init__(
        self,
        session: Session,
        run: RunFolder,
        journal: Journal,
        watcher: Watcher,
        population: Population,
    ) -> None:
        self.run, self.journal, self._population = run, journal, population
        self._session, self._watcher = session, watcher
        self._cache = Cache()
        self._base: tuple[Evaluation, ...] = ()
        self._read_records()
        self._snapshots = Snapshots(run.path / "drift")
        session.rollout.batches.on_split = self._record_split

    def _read_records(self) -> None:
        self._evaluated = scores(self.run.path)
        lines = [*metrics(self.run.path), *self._evaluated]
        self.failures = sum(line.grader_failures for line in lines)
        self._read: dict[int, list[float]] = {}  # see `_rewards`

    @property
    def done(self) -> int:
        """The last step that was made; its line is in the journal."""
        return self._session.base.drift.steps

    @property
    def best_step(self) -> int | None:
        """The step with the best holdout reward; None where none is finite."""
        return best_step(self._evaluated)

    def finished(self) -> bool:
        """Return whether no step of the run is left."""
        return self.over() and self._session.last

    def over(self) -> bool:
        """Return whether no step is left: all are made, the peak is behind, or the last is above a
        budget."""
        over = self.done >= self._session.end or self.above is not None
        return over or self.peak() is not None

    @property
    def above(self) -> RecordedScore | None:
        """The evaluation of the step in hand where it is due and above a budget; else None."""
        if not (self._due(self.done) or self.done == self._session.end):
            return None
        of_step = (score for score in self._evaluated if score.step == self.done)
        return next((score for score in of_step if score.within is False), None)

    @property
    def last_within(self) -> int:
        """The last step on record whose evaluation was due and within all budgets."""
        return max(score.step for score in self._on_time())

    @property
    def _best_within(self) -> int:
        """The step after the base with the best holdout reward of those; 0 where there is none."""
        return best_step([score for score in self._on_time() if score.step]) or 0

    def spent(self) -> Spent | None:
        """Return why the run ends above a budget; None where it does not."""
        if (score := self.above) is None:
            return None
        drift, decays = self._session.base.drift.norm(), [back.awd for back in self.journal.backs]
        words = budget_of(self._session).above(score.kl, score.kl_se, drift)
        return Spent(step=self._best_within, at=score.step, above=words, decays=tuple(decays))

    def go_back(self, back: Back) -> JournalRecord:
        """Take back the steps after `back.to`, which has a snapshot or is the base model; return
        the journal, to whose last step the weights are to be brought."""
        saved = self.run.info.saved
        if saved is not None and (saved.end or (saved.step,))[0] > back.to:
            self.run.update_info(saved=None)  # before its line goes
        self.journal.back(back, self.run.read_journal().checksums[back.to])
        drop_after(self.run.path, back.to)
        self._snapshots.drop_after(back.to)
        self._read_records()
        return self.run.read_journal()

    def peak(self) -> Peak | None:
        """Return the peak that ends the run; None where it goes on to its last step."""
        patience, best = self._session.recipe.run.stop_after_peak, best_step(self._on_time())
        if patience is None or best is None:
            return None
        steps = [score.step for score in self._on_time() if score.role == "target"]
        if sum(step > best for step in steps) < patience:
            return None
        return find_peak({step: self._rewards(step) for step in steps}, best, patience)

    def _on_time(self) -> list[RecordedScore]:
        """Return evaluations that were due, but one above a budget: one where a run was stopped
        must not change its end."""
        due = [score for score in self._evaluated if self._due(score.step)]
        above = {score.step for score in due if score.within is False}
        return [score for score in due if score.step not in above]

    def _rewards(self, step: int) -> list[float]:
        """Return the reward of every holdout row at a step that was evaluated."""
        if step not in self._read:
            of_step = next(s for s in self._on_time() if s.step == step and s.role == "target")
            self._read[step] = [row.reward for row in evaluation(self.run.path, of_step).results]
        return self._read[step]

    def _bests(self) -> set[int | None]:
        bests = {self.best_step, best_step(self._on_time())}
        return bests | {self.last_within, self._best_within} if self._budgeted else bests

    def keep(self) -> bool:
        """Take a snapshot, and evaluate, every so many steps; return whether it evaluated."""
        recipe, done = self._session.recipe, self.done
        if done % recipe.run.snapshot_every == 0:
            self._snapshot()
        # The base is evaluated before the first step, the last step once the model is saved, where
        # no budget could take it back.
        last = done == self._session.end
        due = self._budgeted if last else self._due(done)
        if done == self._session.before or not due:
            return False
        self.end_stage()
        return True

    def end_stage(self) -> None:
        """Evaluate the model as it is: that of the last step of a stage, or before."""
        self._watcher.evaluation(self.done, self.evaluate(self.done))
        if self.done in self._bests():
            self._snapshot()

    def finish(self) -> tuple[TaskScores, ...]:
        """Save the model, evaluate it and close the run; return target and prior tasks.

        The model is that of the last step, of the peak that ended the run, or the best within a
        budget. RunError if it overflows: a step after it would end so too; or if no step is within.
        """
        if (spent := self.spent()) is not None:
            if spent.step == 0:
                self.run.update_info(state="failed")
                raise nothing_within(spent)
            return self._finish_at(spent.step)
        if (peak := self.peak()) is not None:
            return self._finish_at(peak.step)
        state = "finished" if self.finished() else "stopped"
        # First the model, then the evaluation: a second Ctrl-C in the latter loses nothing.
        self._save()
        self._snapshot()
        scores = self.evaluate(self.done)
        self._snapshots.prune(self._bests())
        overflows = math.isnan(scores[0].now.reward)
        self.run.update_info(state="failed" if overflows else state)
        if overflows:
            raise self._overflow(f"the model of step {self.done}", "a smaller --alpha")
        return scores

    def _finish_at(self, step: int) -> tuple[TaskScores, ...]:
        """Save the model of an earlier step that was evaluated, and close the run."""
        self._snapshot()
        drift, checksums = self._session.base.drift, self.run.read_journal().checksums
        end = self.done, self.journal.of_step
        saved = {"step": step, "journal": checksums[step], "end": end}
        if step == 0:
            with drift.at_base():
                self._save(**saved)
        else:
            drift.load(self._snapshots.read(step, checksums[step]))
            self._save(**saved)
            drift.load(self._snapshots.read(*end))
        self.run.update_info(state="finished")
        return self.evaluate(step)

    def fail(self) -> None:
        """Save the model of the last step done, so that an error loses nothing."""
        try:
            if self.done:
                self._session.base.drift.refuse_if_torn()
                self._save()
        except EsftError as error:
            self._watcher.notice(f"the model of step {self.done} was not saved: {error}")
        with suppress(EsftError):
            self.run.update_info(state="failed")

    def evaluate(self, step: int) -> tuple[TaskScores, ...]:
        """Return target and prior tasks at `step`; evaluate what is not on record yet.

        Weights and journal are at `step`; step 0, which comes first, is evaluated at any time.
        """
        tasks = self._session.tasks
        recorded = {score.task: score for score in self._evaluated if score.step == step}
        if any(task.name not in recorded for task in tasks):
            priors = f" and {len(tasks) - 1} prior tasks" if len(tasks) > 1 else ""
            rows = len(tasks[0].encoded)
            self._watcher.phase(f"scoring {rows} holdout rows{priors} at step {step}")
        evaluations = tuple(
            evaluation(self.run.path, recorded[task.name], len(task.encoded))
            if task.name in recorded
            else self._evaluate(step, task)
            for task in tasks
        )
        if step == 0:
            self._base = evaluations
        kls = {score.task: score.kl for score in self._evaluated if score.step == step}
        errors = {score.task: score.kl_se for score in self._evaluated if score.step == step}
        return tuple(
            TaskScores(
                name=task.name, base=base, now=now, kl=kls[task.name], kl_se=errors[task.name]
            )
            for task, base, now in zip(tasks, self._base, evaluations, strict=True)
        )

    def count_failures(
        self, where: str, rows: Sequence[EncodedRow], *members: Sequence[RowResult]
    ) -> int:
        """Count the answers that the grader could not grade, and show the first of a run."""
        pairs = (pair for results in members for pair in zip(rows, results, strict=True))
        failed = [(one.row, result) for one, result in pairs if result.failure is not None]
        if failed and not self.failures:
            row, result = failed[0]
            answer = reprlib.repr("\n\n".join(result.answers))
            self._watcher.notice(
                f"{where}: the grader gave no score for row {row.id}: {result.failure}; the "
                f"answer was {answer}. It counts as 0, as will others, which are counted and not "
                "shown"
            )
        self.failures += len(failed)
        return len(failed)

    def _evaluate(self, step: int, task: EvalTask) -> Evaluation:
        base, rows = self._session.base, task.encoded
        checksum = self.journal.of_step if step else ""
        model = ModelVersion(base=base.identity, parts=base.loaded.parts, journal=checksum)
        # A run that lost its first evaluation makes it again with D set aside.
        with nullcontext() if step else base.drift.at_base():
            score = partial(self._population.score, task, at_base=step == 0)
            result = evaluate(task.rollout, rows, self._cache, model, score=score)
        if step == 0 and task is self._session.tasks[0] and math.isnan(result.reward):
            raise self._overflow("the base model", "--dtype bfloat16 or float32")
        self.count_failures(f"{task.name} at step {step}", rows, result.results)
        far = distance(self._session) if step and task is self._session.tasks[0] else {}
        score = RecordedScore(step=step, task=task.name, role=task.role, **result.figures(), **far)
        lines = [
            RecordedRow(id=row.id, key=row.key, **vars(made), **({} if step else row.shown))
            for row, made in zip((one.row for one in rows), result.results, strict=True)
        ]
        self.run.record_evaluation(score, lines)
        self._evaluated.append(score)
        return result

    def _overflow(self, which: str, instead: str) -> RunError:
        return RunError(
            f"{which} gives NaN on holdout rows in {self._session.base.loaded.dtype}, expected "
            "finite logits: its activations overflow",
            hint=f"take {instead}",
        )

    @property
    def _budgeted(self) -> bool:
        return self._session.recipe.anchor.budgeted

    def _due(self, step: int) -> bool:
        """Return whether `step` is evaluated also where it is not the last."""
        every = self._session.recipe.prior.every
        return step == 0 or (every is not None and step % every == 0)

    def _snapshot(self) -> None:
        """Keep the drift as it is, unless it is kept already."""
        if self.done and self.done not in self._snapshots.steps():
            self._snapshots.write(self._session.base.drift.state(), self.journal.of_step)
        self._snapshots.prune(self._bests())

    def _save(self, **earlier: object) -> None:
        """Save the model and what it is, so that it can be told from that of another step; what
        `Saved` has of an `earlier` step than the last, where it is of one."""
        weights = identity_as_saved(self._session.base.loaded.model)
        last = {"step": self.done, "journal": self.journal.of_step}
        saved = last | {"weights": weights} | earlier
        was, kept = self.run.info.saved, self.run.kept_model is not None
        same = was == Saved(**saved, files=was.files if was else {})
        if same and self.run.model_path.exists() == kept:
            return
        save_tuned(self.run, self._session.base.loaded, self._watcher, **saved)

    def _record_split(self, size: int) -> None:
        self.run.update_info(batches=(*self.run.info.batches, (self.done, size)))
        self._watcher.notice(
            f"memory ran out: from here on {size} sequences at a time (recorded in run.json)"
        )


def save_tuned(run: RunFolder, loaded: LoadedModel, watcher: Watcher, **saved: object) -> None:
    """Write a run's model/, where it keeps one, and then to run.json what it is: all of `Saved` but
    the files."""
    if run.kept_model is None:
        run.update_info(saved=Saved(**saved, files={}))
        drop_model(run)
        return
    watcher.phase(f"saving the model to {run.model_path}")
    save_model(loaded, run.model_path, replace=True)
    run.update_info(saved=Saved(**saved, files=small_files(run.model_path)))


def drop_model(run: RunFolder) -> None:
    """Remove a run's model/, if it is there: base model and journal make it again."""
    if run.model_path.is_dir():
        remove_folder(run.model_path)
