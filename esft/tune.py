"""The loop: perturb, roll out, shape, step, record."""

import math
import reprlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from esft.batches import out_of_memory
from esft.engine.forecast import Forecast, sum_of_squares
from esft.engine.journal import Journal, JournalStep, as_recorded
from esft.engine.members import Member, net_coefficients, population
from esft.engine.perturb import perturbed
from esft.engine.shaping import EQUAL, shape
from esft.errors import EsftError, ModelError, RunError
from esft.evaluate import Evaluation, evaluate
from esft.memory import peak_memory
from esft.models import save_model
from esft.plan import make_plan
from esft.prepared import Prepared
from esft.progress import Outcome, StepMetrics, TaskScores, Watcher
from esft.recipe import Recipe
from esft.recipe_file import dump_recipe
from esft.rollout import RowResult, mean_reward
from esft.run import RunFolder, choose_run_path, create_run, require_room
from esft.run_info import journal_header, run_info
from esft.sampler import RowSampler, rows_hash
from esft.session import Session, open_session


def run_tuning(recipe: Recipe, watcher: Watcher, stop: Callable[[], bool]) -> Outcome:
    """Tune a model as `recipe` says and leave a run folder with the tuned model.

    Args:
        recipe: the settings; a missing seed is drawn and recorded.
        watcher: told of progress.
        stop: asked after each step; True ends the run there, with the model saved.

    Raises:
        EsftError: for what the user can fix. What was recorded stays, and where a step was
            done, the model as it is then is saved first.
    """
    path = choose_run_path(recipe.run.dir, Path(recipe.task.name).stem, recipe.model.id)
    watcher.phase(f"loading {recipe.model.id}")
    session = open_session(recipe)
    require_room(path, sum(p.nbytes for p in session.loaded.model.parameters()))
    started = time.monotonic()
    watcher.plan(make_plan(session, str(path)))
    noise_seconds = time.monotonic() - started
    run = create_run(path, dump_recipe(session.recipe), run_info(session))
    return _Tuning(session, run, watcher, noise_seconds).run(stop)


class _Tuning:
    """One run under way."""

    def __init__(
        self, session: Session, run: RunFolder, watcher: Watcher, noise_seconds: float
    ) -> None:
        search, anchor = session.recipe.search, session.recipe.anchor
        self._session = session
        self._search, self._anchor = search, anchor
        self._run = run
        self._watcher = watcher
        self._noise_seconds = noise_seconds
        self._journal: Journal = run.start_journal(journal_header(session))
        self._sampler = RowSampler(
            len(session.train.rows), session.recipe.task.rows_per_step, search.seed
        )
        self._forecast = Forecast(session.weights.numel, search.alpha, anchor.awd, anchor.norm)
        self._started = time.monotonic()
        self._first_step_began = self._started
        self._done = 0
        self._failures = 0
        self._splits: list[list[int]] = [[0, session.rollout.batches.size]]
        session.rollout.batches.on_split = self._record_split

    def run(self, stop: Callable[[], bool]) -> Outcome:
        self._base = self._evaluate(0)
        self._watcher.begin()
        self._first_step_began = time.monotonic()
        try:
            while self._done < self._search.steps and not (self._done and stop()):
                self._step(self._done + 1)
                self._evaluate_between()
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
        stopped = self._done < self._search.steps
        # First the model, then the evaluation: a second Ctrl-C in the latter loses nothing.
        self._save()
        tuned = self._evaluate(self._done)
        self._run.update_info(state="stopped" if stopped else "finished")
        return Outcome(
            run_path=str(self._run.path),
            model_path=str(self._run.model_path),
            steps=self._done,
            stopped=stopped,
            task=self._session.task.name,
            base=self._base[0],
            tuned=tuned[0],
            priors=self._scores(tuned)[1:],
            grader_failures=self._failures,
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

    def _roll_out(self, step: int, place: int, member: Member, rows: Prepared) -> list[RowResult]:
        began = time.monotonic()
        with perturbed(self._session.weights, member, self._search.sigma):
            results = self._session.rollout.score(rows)
        self._count_failures(f"step {step}", rows, results)
        if step == 1 and place == 0:
            seconds = time.monotonic() - began + self._noise_seconds
            total = seconds * self._search.population * self._search.steps
            self._watcher.estimate(total, self._search.steps)
        self._watcher.member(step, place + 1, self._search.population)
        return results

    def _count_failures(self, where: str, rows: Prepared, results: list[RowResult]) -> None:
        """Count the answers without a score, and show the first of the run."""
        failed = [i for i, result in enumerate(results) if result.failure is not None]
        if failed and not self._failures:
            row, result = rows.rows[failed[0]], results[failed[0]]
            self._watcher.notice(
                f"{where}: the grader gave no score for row {row.id}: {result.failure}; the "
                f"answer was {reprlib.repr(result.answer)}. It counts as 0, as will others, which "
                "are counted and not shown"
            )
        self._failures += len(failed)

    def _update(self, members: list[Member], coefficients: tuple[float, ...]) -> int:
        """Make the step; return N, the members that took part."""
        counted = [
            (member, c)
            for member, c in zip(members, coefficients, strict=True)
            if not math.isnan(c)
        ]
        takers, weights = [m for m, _ in counted], [c for _, c in counted]
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
        left = (time.monotonic() - self._first_step_began) / step * (steps - step)
        self._watcher.step(metrics, steps, left)

    def _evaluate_between(self) -> None:
        """Evaluate every so many steps; the last one is evaluated once the model is saved."""
        every = self._session.recipe.prior.every
        if every is None or self._done % every or self._done == self._search.steps:
            return
        self._watcher.evaluation(self._done, self._scores(self._evaluate(self._done)))

    def _scores(self, evaluations: list[Evaluation]) -> tuple[TaskScores, ...]:
        """Return evaluations of the target and the prior tasks beside those of the base."""
        names = [self._session.task.name, *(prior.name for prior in self._session.priors)]
        return tuple(
            TaskScores(name=name, base=base, now=now)
            for name, base, now in zip(names, self._base, evaluations, strict=True)
        )

    def _evaluate(self, step: int) -> list[Evaluation]:
        """Measure the target and the prior tasks on the model as it is, and record them."""
        session = self._session
        priors = f" and {len(session.priors)} prior tasks" if session.priors else ""
        rows = len(session.holdout.rows)
        self._watcher.phase(f"scoring {rows} holdout rows{priors} at step {step}")
        target = evaluate(session.rollout, session.holdout)
        if step == 0 and math.isnan(target.reward):
            raise RunError(
                f"the base model gives NaN on holdout rows in {session.loaded.dtype}, "
                "expected finite logits: its activations overflow",
                hint="take --dtype bfloat16 or float32",
            )
        self._record(step, session.task.name, "target", target, session.holdout)
        evaluations = [target]
        for prior in session.priors:
            rows = prior.prepared
            evaluations.append(evaluate(prior.rollout, rows))
            self._record(step, prior.name, "prior", evaluations[-1], rows)
        return evaluations

    def _record(
        self, step: int, task: str, role: str, evaluation: Evaluation, rows: Prepared
    ) -> None:
        self._count_failures(f"{task} at step {step}", rows, list(evaluation.results))
        summary = {"step": step, "task": task, "role": role}
        self._run.record_evaluation(summary | evaluation.summary(), evaluation.rows(rows))

    def _save(self) -> None:
        self._watcher.phase(f"saving the model to {self._run.model_path}")
        save_model(self._session.loaded, self._run.model_path)

    def _save_what_is_done(self) -> None:
        """Save the model of the last step done, so that an error loses nothing."""
        if not self._done:
            return
        try:
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
