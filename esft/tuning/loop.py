"""The loop: perturb, roll out, shape, step, record."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict

from esft.engine.forecast import Forecast, sum_of_squares
from esft.engine.journal import Journal, JournalStep, as_recorded
from esft.engine.members import Member, net_coefficients, population, with_coefficients
from esft.engine.perturb import perturbed
from esft.engine.shaping import EQUAL, shape
from esft.engine.weights import identity
from esft.errors import EsftError, ModelError, RunError
from esft.models.save import save_model
from esft.rollout.batches import out_of_memory
from esft.rollout.encode import EncodedRows
from esft.rollout.results import RowResult, mean_reward
from esft.runs.folder import RunFolder
from esft.runs.snapshots import Snapshots
from esft.tuning.evaluations import Evaluations
from esft.tuning.failures import Failures
from esft.tuning.memory import peak_memory
from esft.tuning.sampler import RowSampler, rows_hash
from esft.tuning.session import Session
from esft.tuning.watcher import Outcome, StepMetrics, Watcher


class Tuning:
    """One run under way, from the step that its drift is at.

    Args:
        session: model, drift and rows.
        run: the folder it is recorded in.
        journal: at the drift's step.
        forecast: likewise.
        watcher: told of progress.
        failures: counts the answers without a score.
        noise_seconds: what perturbing and reverting a member takes.
    """

    def __init__(
        self,
        session: Session,
        run: RunFolder,
        journal: Journal,
        forecast: Forecast,
        watcher: Watcher,
        failures: Failures,
        noise_seconds: float,
    ) -> None:
        search, task = session.recipe.search, session.recipe.task
        self._session = session
        self._search, self._anchor = search, session.recipe.anchor
        self._run = run
        self._journal = journal
        self._forecast = forecast
        self._watcher = watcher
        self._failures = failures
        self._noise_seconds = noise_seconds
        self._evaluations = Evaluations(
            session, run, watcher, failures, lambda: self._journal.checksum
        )
        self._snapshots = Snapshots(run.path / "drift")
        self._sampler = RowSampler(len(session.train.rows), task.rows_per_step, search.seed)
        self._started = time.monotonic()
        self._first_step_began = self._started
        self._first = self._done = session.drift.steps
        self._splits: list[list[int]] = list(run.info["batches"])
        session.rollout.batches.on_split = self._record_split

    def run(self, stop: Callable[[], bool]) -> Outcome:
        """Make the steps that are left, save the model and measure it.

        Args:
            stop: asked after each step; True ends the run there.

        Raises:
            EsftError: for what the user can fix; where a step was done, the model as it is then
                is saved first.
        """
        try:
            self._evaluations.at(0)
            self._watcher.begin()
            self._first_step_began = time.monotonic()
            self._keep_if_due()
            while not self._over() and not (self._done > self._first and stop()):
                self._step(self._done + 1)
                self._keep_if_due()
        except EsftError:
            self._save_what_is_done()
            raise
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            self._save_what_is_done()
            raise ModelError(
                f"memory ran out in step {self._done + 1}, outside the scoring: {error}",
                hint="take a smaller model or --dtype bfloat16, or free memory on the device",
            ) from error
        return self._finish()

    def _over(self) -> bool:
        return self._done >= self._search.steps or self._evaluations.peaked()

    def _finish(self) -> Outcome:
        stopped = not self._over()
        # First the model, then the evaluation: a second Ctrl-C in the latter loses nothing.
        self._save()
        self._snapshot()
        base, tuned = self._evaluations.at(0), self._evaluations.at(self._done)
        self._snapshots.prune(self._best_step())
        self._run.update_info(state="stopped" if stopped else "finished")
        return Outcome(
            run_path=str(self._run.path),
            model_path=str(self._run.model_path),
            steps=self._done,
            planned=self._search.steps,
            stopped=stopped,
            task=self._session.task.name,
            base=base[0],
            tuned=tuned[0],
            best_step=self._best_step(),
            priors=self._evaluations.scores(tuned)[1:],
            grader_failures=self._failures.count,
            drift=self._session.drift.norm(),
            forecast=self._forecast.norm(),
            seconds=time.monotonic() - self._started,
            peak_memory=peak_memory(self._session.loaded.device),
        )

    def _step(self, step: int) -> None:
        began = time.monotonic()
        search = self._search
        members = population(search.seed, step, search.population, search.antithetic)
        rows = self._session.train.take(self._sampler.take(step))
        results = [self._roll_out(step, i, member, rows) for i, member in enumerate(members)]
        rewards = [mean_reward(result) for result in results]
        self._check_rewards(step, rewards)
        coefficients = as_recorded(shape(rewards, search.shaping, search.antithetic))
        self._session.base.refuse_if_changed()
        # The line first: a step that cannot be recorded is not made.
        self._journal.append(
            JournalStep(
                step=step,
                rewards=tuple(rewards),
                coefficients=coefficients,
                rows_at=self._sampler.position(step),
                rows_hash=rows_hash(rows.rows),
            )
        )
        size = self._update(members, coefficients)
        self._done = step
        self._report(step, rewards, results, size, time.monotonic() - began)

    def _roll_out(
        self, step: int, place: int, member: Member, rows: EncodedRows
    ) -> list[RowResult]:
        began = time.monotonic()
        session = self._session
        with perturbed(session.weights, member, self._search.sigma, session.drift):
            results = session.rollout.roll_out(rows)
        self._failures.add(f"step {step}", rows, results)
        if step == self._first + 1 and place == 0:
            seconds = time.monotonic() - began + self._noise_seconds
            left = self._search.steps - self._first
            self._watcher.estimate(seconds * self._search.population * left, left)
        self._watcher.member(step, place + 1, self._search.population)
        return results

    def _update(self, members: list[Member], coefficients: tuple[float, ...]) -> int:
        """Make the step; return N, the members that took part."""
        takers, weights = with_coefficients(members, coefficients)
        search, anchor = self._search, self._anchor
        self._session.drift.step(takers, weights, search.alpha, anchor.awd, anchor.norm)
        self._forecast.step(len(takers), sum_of_squares(net_coefficients(takers, weights)))
        return len(takers)

    def _check_rewards(self, step: int, rewards: list[float]) -> None:
        lost = sum(not math.isfinite(reward) for reward in rewards)
        if 2 * lost > len(rewards):
            raise RunError(
                f"step {step}: {lost} of {len(rewards)} members gave no finite reward, expected "
                "at least half: the model overflows",
                hint="take --dtype bfloat16 or float32, or a smaller --sigma",
            )
        if lost:
            self._watcher.notice(
                f"step {step}: {lost} of {len(rewards)} members gave no finite reward and "
                "are left out"
            )
        finite = [reward for reward in rewards if math.isfinite(reward)]
        if max(finite) - min(finite) <= EQUAL:
            acts = "only the decay acts" if self._anchor.awd else "the weights stay"
            self._watcher.notice(
                f"step {step}: all rewards are {finite[0]:.4g}, so there is no update; {acts}"
            )

    def _report(
        self,
        step: int,
        rewards: list[float],
        results: list[list[RowResult]],
        size: int,
        seconds: float,
    ) -> None:
        finite = [i for i, reward in enumerate(rewards) if math.isfinite(reward)]
        judged = [row.correct for i in finite for row in results[i] if row.correct is not None]
        failed = sum(row.failure is not None for each in results for row in each)
        metrics = StepMetrics(
            step=step,
            reward_mean=sum(rewards[i] for i in finite) / len(finite),
            reward_best=max(rewards[i] for i in finite),
            correct=sum(judged) / len(judged) if judged else None,
            grader_failures=failed,
            members=size,
            drift=self._session.drift.norm(),
            forecast=self._forecast.norm(),
            seconds=seconds,
            peak_memory=peak_memory(self._session.loaded.device),
            batch=self._session.rollout.batches.size,
        )
        self._run.record_metrics(asdict(metrics))
        steps = self._search.steps
        each = (time.monotonic() - self._first_step_began) / (step - self._first)
        self._watcher.step(metrics, steps, each * (steps - step))

    def _keep_if_due(self) -> None:
        """Take a snapshot, and evaluate, every so many steps."""
        if self._done % self._session.recipe.run.snapshot_every == 0:
            self._snapshot()
        self._evaluate_if_due()

    def _evaluate_if_due(self) -> None:
        """Evaluate every so many steps; the last one is evaluated once the model is saved."""
        if self._done in (0, self._search.steps) or not self._evaluations.due(self._done):
            return
        scores = self._evaluations.scores(self._evaluations.at(self._done))
        self._watcher.evaluation(self._done, scores)
        if self._best_step() == self._done:
            self._snapshot()

    def _snapshot(self) -> None:
        """Keep the drift as it is, unless it is kept already."""
        if self._done and self._done not in self._snapshots.steps():
            self._snapshots.write(self._session.drift.state(), self._journal.checksum)
        self._snapshots.prune(self._best_step())

    def _best_step(self) -> int | None:
        best = self._evaluations.best
        return None if best is None else best.step

    def _save(self) -> None:
        """Save the model and what it is, so that it can be told from that of another step."""
        weights = identity(self._session.loaded.model)
        saved = {"step": self._done, "weights": weights, "journal": self._journal.checksum}
        if self._run.info.get("saved") == saved and self._run.model_path.exists():
            return
        self._watcher.phase(f"saving the model to {self._run.model_path}")
        save_model(self._session.loaded, self._run.model_path, replace=True)
        self._run.update_info(saved=saved)

    def _save_what_is_done(self) -> None:
        """Save the model of the last step done, so that an error loses nothing."""
        try:
            if self._done:
                self._session.drift.refuse_if_torn()
                self._save()
            self._run.update_info(state="failed")
        except EsftError as error:
            self._watcher.notice(f"the model of step {self._done} was not saved: {error}")

    def _record_split(self, size: int) -> None:
        self._splits.append([self._done, size])
        self._run.update_info(batches=self._splits)
        self._watcher.notice(
            f"memory ran out: from here on {size} sequences at a time (recorded in run.json)"
        )
