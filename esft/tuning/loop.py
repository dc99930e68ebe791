"""The loop: perturb, roll out, shape, step."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from esft.engine.forecast import Forecast, advance, forecast_of
from esft.engine.journal import JournalStep, as_recorded
from esft.engine.journal_read import contributions, make_step
from esft.engine.members import EQUAL, net_coefficients, population, shape, with_finite_rewards
from esft.errors import EsftError, ModelError, RunError
from esft.models.calling import out_of_memory
from esft.models.memory import peak_memory
from esft.rollout.encode import EncodedRow
from esft.rollout.results import Evaluation, RowResult, mean_reward
from esft.runs.budget import Spent
from esft.runs.records import RecordedScore
from esft.runs.steps import StepMetrics, StepTimes, search_scales, sum_of_times
from esft.tuning.anchor_kl import penalized
from esft.tuning.answers import keep_answers, samples, shown_before_and_after, step_samples
from esft.tuning.budget import MOST_BACKS, back_from, budget_of
from esft.tuning.clock import Clock, busy_machine, long_run
from esft.tuning.first_steps import refuse_destroyed, weak_start
from esft.tuning.meter import Meter, silent_rows
from esft.tuning.peak import Peak
from esft.tuning.population import Laps, Population
from esft.tuning.rebuild import Source, bring_to, seconds_a_noise
from esft.tuning.recorder import Recorder
from esft.tuning.screen import Screen, as_hex, screen_of
from esft.tuning.session import Session
from esft.tuning.tasks import rows_hash
from esft.tuning.watcher import Outcome, TaskScores, Watcher


@dataclass
class Loop:
    """The steps of a run that are left, from the one that drift, forecast and recorder are at."""

    session: Session
    population: Population
    recorder: Recorder
    forecast: Forecast
    watcher: Watcher
    header: Mapping[str, object]  # of its journal
    screen: Screen | None = None  # at the step that they are at; None where no row is left out
    made: list[StepTimes] = field(default_factory=list)
    """Times of the steps made by now, those of the stages before among them."""
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._search, self._base = self.session.recipe.search, self.session.base
        self._first, self._before = self.recorder.done, self.session.before
        whole, stage = self.session.whole, self.session.stage
        later = [whole.at_stage(number) for number in range(stage + 1, len(whole.stages))]
        self._clock = Clock(self.session.recipe, seconds_a_noise(self._base.weights), later)
        self._estimated = False
        self._meter = Meter(self.session, self.recorder.run.path)

    def run(self, stop: Callable[[], bool]) -> Outcome | None:
        """Make the steps that are left or until `stop`; save the model, also on errors. None where
        the stage of a chain is over and another one follows."""
        recorder = self.recorder
        try:
            self._steps(stop)
            self.population.end()
            if recorder.over() and not (recorder.finished() or stop()):
                recorder.end_stage()
                return None
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
        stopped, spent = not recorder.finished(), recorder.spent()
        peak = recorder.peak() if spent is None else None
        return self._outcome(stopped, peak, spent, *recorder.finish())

    def _outcome(
        self,
        stopped: bool,
        peak: Peak | None,
        spent: Spent | None,
        target: TaskScores,
        *priors: TaskScores,
    ) -> Outcome:
        recorder = self.recorder
        return Outcome(
            run_path=str(recorder.run.path),
            model_path=recorder.run.kept_model and str(recorder.run.kept_model),
            steps=recorder.done,
            planned=self.session.steps,
            stopped=stopped,
            task=target.name,
            base=target.base,
            tuned=target.now,
            peak=peak,
            spent=spent,
            backs=recorder.journal.backs,
            budget=budget_of(self.session),
            kl=target.kl,
            kl_se=target.kl_se,
            best_step=recorder.best_step,
            priors=priors,
            samples=samples(
                self.session.tasks[0].encoded,
                shown_before_and_after(self.session.recipe),
                base=target.base.results,
                tuned=target.now.results,
            ),
            grader_failures=recorder.failures,
            drift=self._base.drift.norm(),
            forecast=self.forecast.norms[-1],
            seconds=time.monotonic() - self.started,
            times=sum_of_times(self.made),
            peak_memory=peak_memory(self._base.loaded.device),
            stages=len(self.session.whole.stages),
        )

    def _steps(self, stop: Callable[[], bool]) -> None:
        recorder, watcher, recipe = self.recorder, self.watcher, self.session.recipe
        began = time.monotonic()
        target, *_ = recorder.evaluate(0)
        self._clock.evaluated(time.monotonic() - began)
        if self._first == self._before:
            rows, count = self.session.tasks[0].encoded, shown_before_and_after(recipe)
            shown = samples(rows, count, base=target.base.results)
            watcher.answers("holdout rows, and reward and answer of the base model", shown)
            weak_start(self.session, target.base, watcher)
        watcher.begin(target.base, self._first, self.session.steps)
        self._keep()
        # At least a step is made now, and the base model is not left as what was tuned.
        while not recorder.over() and not (self.made and recorder.done and stop()):
            self._step(recorder.done + 1, target.base)
            self._keep()

    def _keep(self) -> None:
        began = time.monotonic()
        if self.recorder.keep():
            self._clock.evaluated(time.monotonic() - began)
        above = self.recorder.above
        if above is not None and len(self.recorder.journal.backs) < MOST_BACKS:
            self._go_back(above)

    def _go_back(self, above: RecordedScore) -> None:
        """Go back from a step above a budget to the last within, and on with a stronger decay."""
        recorder, session = self.recorder, self.session
        back = back_from(session, above, recorder.last_within, self._awd)
        record = recorder.go_back(back)
        self._base.drift.reset()
        source = Source(record=record, run=recorder.run)
        bring_to(self._base, source, record.last, self.watcher)
        self.population.go_back(recorder.run, record)
        self.forecast = forecast_of(record, self._base.weights.numel)
        self.screen, self._meter = screen_of(session, record), Meter(session, recorder.run.path)
        self.watcher.notice(budget_of(session).told(back))

    @property
    def _awd(self) -> float:
        """The decay in force."""
        backs = self.recorder.journal.backs
        return backs[-1].awd if backs else self.session.recipe.anchor.awd

    def _step(self, step: int, base: Evaluation) -> None:
        search, recipe = self._search, self.session.recipe
        self._clock.begin_step()
        processor = time.process_time()
        laps = Laps(self._base.loaded.device)
        members = population(search.seed, step, search.population, search.antithetic)
        turns = self.session.turns(step)
        seen = turns if self.screen is None else self.screen.seen(turns)
        rows = [self.session.train[number] for number in seen]

        results = self.population.roll_out(members, rows, partial(self._tell, step), laps)
        rewards = [mean_reward(member) for member in results]
        self._refuse_overflow(step, rewards)
        refuse_destroyed(self.session, step, base, rows, rewards)
        kls = self.population.kls
        aims = penalized(rewards, kls, recipe.anchor.kl)
        coefficients = as_recorded(shape(aims, search.shaping, search.antithetic))
        self._base.refuse_if_changed()
        if recipe.run.keep_answers is not None and step % recipe.run.keep_answers == 0:
            keep_answers(self.recorder.run.path, step, members, rows, results)
        silent = None if self.screen is None else silent_rows(results)
        line = self._line(step, rows, len(turns), rewards, coefficients, silent, kls)
        takers = self._update(line, laps)
        if self.screen is not None:
            self.screen.note(turns, silent)
        failures = self.recorder.count_failures(f"step {step}", rows, *results)
        signal, verdict = self._meter.measure(step - self._before, seen, results)
        metrics = self._metrics(step, results, failures, takers, laps)
        metrics = replace(metrics, signal=signal, verdict=verdict)
        self.made.append(metrics.times)
        self.recorder.run.record_metrics(metrics)
        self._clock.end_step()
        alone = self.population.shares is None  # else the wait for other ranks looks like that
        if len(self.made) == 1 and self._base.loaded.device.type == "cpu" and alone:
            worked = metrics.seconds - metrics.times.grading
            self._warn(busy_machine(worked, time.process_time() - processor))
        self.watcher.step(metrics, self._clock.left(step + 1 - self._before))
        if verdict is not None:
            self.watcher.plan([("signal", verdict)])
        if shown := step_samples(recipe, step, rows, results):
            who = "a member" if recipe.run.show_answers is None else "the best and the worst member"
            self.watcher.answers(f"step {step}, answered by {who}", shown)

    def _line(
        self,
        step: int,
        rows: list[EncodedRow],
        turns: int,
        rewards: list[float],
        coefficients: tuple[float, ...],
        silent: list[bool] | None,
        kls: list[float] | None,
    ) -> JournalStep:
        """Return the line of the journal of a step, in which it was the turn of so many rows."""
        return JournalStep(
            step=step,
            rewards=tuple(rewards),
            coefficients=coefficients,
            rows_at=(step - 1 - self._before) * turns,
            rows_hash=rows_hash(one.row for one in rows),
            kl=None if kls is None else tuple(kls),
            silent=None if silent is None else as_hex(silent),
            own=self._own(step),
        )

    def _own(self, step: int) -> dict[str, object]:
        """Return what a step is made with by other than the journal's header."""
        search, anchor = self._search, self.session.recipe.anchor
        sigma, alpha = self.session.scales(step)
        now = {"population": search.population, "antithetic": search.antithetic}
        now |= {"sigma": sigma, "alpha": alpha, "awd": self._awd, "norm": anchor.norm}
        now["tau"] = anchor.follows_at(step == self.session.end and not self.session.last)
        always = ("sigma", "alpha") if "anneal" in self.header else ()
        return {
            key: value
            for key, value in now.items()
            if key in always or value != self.header.get(key, value)
        }

    def _update(self, line: JournalStep, laps: Laps) -> int:
        """Record a step, then make it; return how many members it is made of."""
        # Line before step: what cannot be recorded is not made, and what was recorded but not made
        # is made again from the journal.
        self.recorder.journal.append(line)
        laps.lap("other")
        with self.population.stepping(line):
            make_step(self._base.drift, line, self.header)
        laps.lap("engine")
        advance(self.forecast, line, self.header)
        aims = penalized(line.rewards, line.kl, self.session.recipe.anchor.kl)
        takers, weights = contributions(line, self.header)
        self._tell_what_is_missing(line.step, aims, bool(net_coefficients(takers, weights)))
        return len(takers)

    def _tell(self, step: int, done: int) -> None:
        """Tell how many members of a step are done, and how long it and the run still take."""
        self._clock.members(done)
        left = self._clock.left(step - self._before)
        if left is not None and not self._estimated:
            self._estimated = True
            self._warn(long_run(left.run))
        self.watcher.members(done, self._search.population, left)

    def _warn(self, text: str | None) -> None:
        if text is not None:
            self.watcher.notice(text)

    def _refuse_overflow(self, step: int, rewards: list[float]) -> None:
        lost = sum(not math.isfinite(reward) for reward in rewards)
        if 2 * lost > len(rewards):
            raise RunError(
                f"step {step}: {lost} of {len(rewards)} members gave no finite reward, expected "
                "at least half: the model overflows",
                hint="take --dtype bfloat16 or float32, or a smaller --sigma",
            )

    def _tell_what_is_missing(self, step: int, rewards: Sequence[float], updated: bool) -> None:
        """Tell which members had no share in the step that was made, and why it had no update;
        rewards less their penalty."""
        finite = [i for i, reward in enumerate(rewards) if math.isfinite(reward)]
        counted = with_finite_rewards(rewards, self._search.antithetic)
        lost, partners = len(rewards) - len(finite), len(finite) - len(counted)
        if lost:
            text = f"{lost} of {len(rewards)} members gave no finite reward and are left out"
            if partners:
                text += f", and so {'is' if partners == 1 else 'are'} {partners} antithetic "
                text += f"partner{'s' if partners > 1 else ''}"
            self.watcher.notice(f"step {step}: {text}")
        if updated:
            return
        values = [rewards[i] for i in counted]
        why = "the rewards within each antithetic pair are equal"
        if not values:
            why = "no antithetic pair is whole"
        elif max(values) - min(values) <= EQUAL:
            why = f"all rewards are {values[0]:.4g}"
        acts = "only the decay acts" if self._awd else "the weights stay"
        self.watcher.notice(f"step {step}: {why}, so there is no update; {acts}")

    def _metrics(
        self,
        step: int,
        results: list[list[RowResult]],
        failures: int,
        size: int,
        laps: Laps,
    ) -> StepMetrics:
        finite = [member for member in results if math.isfinite(mean_reward(member))]
        rewards = [mean_reward(member) for member in finite]
        judged = [row.correct for member in finite for row in member if row.correct is not None]
        drift, times = self._base.drift, laps.times()
        kls = [kl for kl in self.population.kls or () if math.isfinite(kl)]
        kl = math.fsum(kls) / len(kls) if kls else None
        return StepMetrics(
            step=step,
            reward_mean=sum(rewards) / len(rewards),
            reward_best=max(rewards),
            correct=sum(judged) / len(judged) if judged else None,
            kl=kl,
            penalty=None if kl is None else self.session.recipe.anchor.kl * kl,
            grader_failures=failures,
            rows=len(results[0]),
            members=size,
            **search_scales(*self.session.scales(step), size),
            drift=drift.norm(),
            anchor=None if drift.anchor is None else drift.anchor.norm(),
            forecast=self.forecast.norms[-1],
            changed=self._base.drift.changed_share,
            seconds=math.fsum(vars(times).values()),
            times=times,
            peak_memory=peak_memory(self._base.loaded.device),
            batch=self.session.rollout.batches.size,
            ranks=self.population.shares,
        )
