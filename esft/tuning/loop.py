"""The loop: perturb, roll out, shape, step."""

import math
import resource
import sys
import time
from collections.abc import Callable

import torch

from esft.engine.forecast import Forecast, sum_of_squares
from esft.engine.journal import JournalStep, as_recorded
from esft.engine.members import net_coefficients, population, with_coefficients
from esft.engine.shaping import EQUAL, shape
from esft.errors import EsftError, ModelError, RunError
from esft.rollout.batches import out_of_memory
from esft.tuning.population import MemberResult, Population
from esft.tuning.rebuild import seconds_a_noise
from esft.tuning.recorder import Recorder
from esft.tuning.sampler import RowSampler, rows_hash
from esft.tuning.session import Session
from esft.tuning.watcher import Failures, Outcome, StepMetrics, TaskScores, Watcher


class Loop:
    """The steps of a run that are left, from the one that drift, forecast and recorder are at."""

    def __init__(
        self,
        session: Session,
        population: Population,
        recorder: Recorder,
        forecast: Forecast,
        failures: Failures,
        watcher: Watcher,
    ) -> None:
        self._session = session
        self._search, self._anchor = session.recipe.search, session.recipe.anchor
        self._population = population
        self._recorder = recorder
        self._forecast = forecast
        self._failures = failures
        self._watcher = watcher
        self._sampler = RowSampler(
            len(session.train.rows), session.recipe.task.rows_per_step, self._search.seed
        )
        self._first = recorder.done
        self._started = time.monotonic()

    def run(self, stop: Callable[[], bool]) -> Outcome:
        """Make the steps that are left, save the model and evaluate it.

        Args:
            stop: asked after each step; True ends the run there.

        Raises:
            EsftError: for what the user can fix; where a step was done, the model as it is then
                is saved first.
        """
        recorder = self._recorder
        try:
            recorder.begin()
            self._watcher.begin()
            self._first_began = time.monotonic()
            recorder.keep()
            while not recorder.over() and not (recorder.done > self._first and stop()):
                self._step(recorder.done + 1)
                recorder.keep()
        except EsftError:
            recorder.fail()
            raise
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            recorder.fail()
            raise ModelError(
                f"memory ran out in step {recorder.done + 1}, outside the rollouts: {error}",
                hint="take a smaller model or --dtype bfloat16, or free memory on the device",
            ) from error
        return self._outcome(stopped=not recorder.over(), scores=recorder.finish())

    def _outcome(self, *, stopped: bool, scores: tuple[TaskScores, ...]) -> Outcome:
        target, *priors = scores
        return Outcome(
            run_path=str(self._recorder.run.path),
            model_path=str(self._recorder.run.model_path),
            steps=self._recorder.done,
            planned=self._search.steps,
            stopped=stopped,
            task=target.name,
            base=target.base,
            tuned=target.now,
            best_step=self._recorder.best_step,
            priors=tuple(priors),
            grader_failures=self._failures.count,
            drift=self._session.drift.norm(),
            forecast=self._forecast.norm(),
            seconds=time.monotonic() - self._started,
            peak_memory=peak_memory(self._session.loaded.device),
        )

    def _step(self, step: int) -> None:
        began, search = time.monotonic(), self._search
        members = population(search.seed, step, search.population, search.antithetic)
        rows = self._session.train.take(self._sampler.take(step))

        estimated = step > self._first + 1

        def tell(done: int) -> None:
            nonlocal estimated
            if not estimated:
                estimated = True
                self._estimate((time.monotonic() - began) / done)
            self._watcher.progress(f"step {step}, member", done, len(members))

        results = self._population.roll_out(step, members, rows, tell)
        rewards = [result.reward for result in results]
        self._check_rewards(step, rewards)
        coefficients = as_recorded(shape(rewards, search.shaping, search.antithetic))
        self._session.base.refuse_if_changed()
        line = JournalStep(
            step=step,
            rewards=tuple(rewards),
            coefficients=coefficients,
            rows_at=self._sampler.position(step),
            rows_hash=rows_hash(rows.rows),
        )

        def make() -> StepMetrics:
            takers, weights = with_coefficients(members, coefficients)
            anchor = self._anchor
            self._session.drift.step(takers, weights, search.alpha, anchor.awd, anchor.norm)
            self._forecast.step(len(takers), sum_of_squares(net_coefficients(takers, weights)))
            return self._metrics(step, results, len(takers), time.monotonic() - began)

        metrics = self._recorder.step(line, make)
        left = search.steps - step
        seconds = (time.monotonic() - self._first_began) / (step - self._first)
        self._watcher.step(metrics, search.steps, seconds * left)

    def _estimate(self, seconds_a_member: float) -> None:
        left = self._search.steps - self._first
        # A step draws every member's noise once more than its perturbing and reverting do.
        seconds = seconds_a_member + seconds_a_noise(self._session.weights)
        self._watcher.estimate(seconds * self._search.population * left, left)

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

    def _metrics(
        self, step: int, results: list[MemberResult], size: int, seconds: float
    ) -> StepMetrics:
        finite = [result for result in results if math.isfinite(result.reward)]
        judged = sum(result.judged for result in finite)
        return StepMetrics(
            step=step,
            reward_mean=sum(result.reward for result in finite) / len(finite),
            reward_best=max(result.reward for result in finite),
            correct=sum(result.right for result in finite) / judged if judged else None,
            grader_failures=sum(result.failures for result in results),
            members=size,
            drift=self._session.drift.norm(),
            forecast=self._forecast.norm(),
            seconds=seconds,
            peak_memory=peak_memory(self._session.loaded.device),
            batch=self._session.rollout.batches.size,
        )


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: on the device for cuda, else of the process.

    On mps the process' memory is the device's.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
