"""What commands show: progress on stderr, the result of a run on stdout."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from esft.cli.stop import StopSignals

if TYPE_CHECKING:
    from rich.progress import Progress
    from tqdm import tqdm

    from esft.rollout.results import Evaluation
    from esft.tuning.plan import Plan
    from esft.tuning.watcher import Outcome, StepMetrics, TaskScores

LONG = 24 * 3600
"""Seconds from which a run is told how it could be shorter."""


@contextmanager
def show_run(signals: StopSignals) -> Iterator[PlainWatcher]:
    """Yield what shows a run: plain lines, on a terminal above one that moves with every member."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield PlainWatcher(signals)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
    with Progress(*columns, console=console, transient=True) as progress:
        yield LiveWatcher(signals, progress)


@contextmanager
def show_work() -> Iterator[PlainWatcher]:
    """Yield what shows long work that is not a run: plain lines, on a terminal a bar too.

    A signal ends the work at once.
    """
    with StopSignals() as signals:
        watcher = BarWatcher(signals)
        try:
            yield watcher
        finally:
            watcher.close()


class PlainWatcher:
    """Prints lines to stderr: what `esft.tuning.watcher.Watcher` promises."""

    def __init__(self, signals: StopSignals) -> None:
        self._signals = signals
        self._headed = False

    def plan(self, plan: Plan) -> None:
        for label, text in plan.lines:
            self._print(wrapped(f"{label:<8}", text))
        for warning in plan.warnings:
            self.notice(warning)

    def begin(self) -> None:
        # From here on Ctrl-C waits for the step in hand.
        self._signals.arm()

    def phase(self, text: str) -> None:
        self._print(wrapped("", f"{text} ..."))

    def rebuild(self, since: int, to: int, seconds: float) -> None:
        steps = f"step {to}" if to == since + 1 else f"steps {since + 1} to {to}"
        start = "the base model" if since == 0 else f"step {since}"
        self._print(f"rebuilding {steps} from {start} and the journal: about {duration(seconds)}")

    def progress(self, text: str, done: int, total: int) -> None:
        """Print nothing: a line each time is too much."""

    def estimate(self, seconds: float, steps: int) -> None:
        self._print(f"expected {duration(seconds)} for {steps} steps, from the first member")
        if seconds > LONG:
            self._print(f"hint: --steps {max(1, steps // 2)} would halve it")

    def step(self, metrics: StepMetrics, steps: int, seconds_left: float) -> None:
        """Print a line, under heads before the first."""
        if not self._headed:
            self._headed = True
            self._print(_columns(*_HEADS))
        self._print(
            _columns(
                f"{metrics.step}/{steps}",
                f"{metrics.reward_mean:.3f}",
                f"{metrics.reward_best:.3f}",
                "-" if metrics.correct is None else f"{metrics.correct:.1%}",
                f"{metrics.drift:.4g}",
                f"{metrics.forecast:.4g}",
                duration(metrics.seconds),
                duration(seconds_left),
                gigabytes(metrics.peak_memory),
            )
        )

    def evaluation(self, step: int, scores: tuple[TaskScores, ...]) -> None:
        """Print a line a task: the share right now, and its change."""
        for number, task in enumerate(scores):
            label = f"  {'target' if number == 0 else 'prior ':<6} {task.name:<22}"
            self._print(f"{label} {change_text(task)}")

    def notice(self, text: str) -> None:
        self._print(wrapped("Warning: ", text))

    def _print(self, text: str) -> None:
        click.echo(text, err=True)


class LiveWatcher(PlainWatcher):
    """Prints the same above a line of rich."""

    def __init__(self, signals: StopSignals, progress: Progress) -> None:
        super().__init__(signals)
        self._progress = progress
        self._line = progress.add_task("", total=None)

    def phase(self, text: str) -> None:
        self._progress.update(self._line, description=text, total=None, completed=0)

    def progress(self, text: str, done: int, total: int) -> None:
        description = f"{text} {done}/{total}"
        self._progress.update(self._line, description=description, total=total, completed=done)

    def notice(self, text: str) -> None:
        self._progress.console.print(wrapped("Warning: ", text), style="yellow", markup=False)

    def _print(self, text: str) -> None:
        self._progress.console.print(text, markup=False, soft_wrap=True)


class BarWatcher(PlainWatcher):
    """Prints the same, with a bar of tqdm below while something is counted."""

    _bar: tqdm | None = None

    def progress(self, text: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            # None disables it where stderr is not a terminal.
            self._bar = tqdm(desc=text, total=total, leave=False, disable=None, file=sys.stderr)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()  # the next progress draws it again, below the line
        super()._print(text)


def wrapped(label: str, text: str) -> str:
    """Return label and text folded to the terminal's width, at most 100, under the text."""
    width = min(100, shutil.get_terminal_size().columns)
    return textwrap.fill(
        text,
        width,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )


def change_text(scores: TaskScores) -> str:
    """Return the share right before and now, with the change row by row, and their errors."""
    from esft.rollout.results import paired_change

    change, error = paired_change(scores.base, scores.now, "correct")
    return (
        f"{scores.base.accuracy:.3f} -> {scores.now.accuracy:.3f} +- {scores.now.accuracy_se:.3f}"
        f"   change {change:+.3f} +- {error:.3f}"
    )


def outcome_text(outcome: Outcome) -> str:
    """Return the result of a run, for people."""
    from esft.rollout.results import paired_change

    lines = [f"{outcome.task}, {outcome.base.n} holdout rows, +- standard error"]
    for label, attribute, what in (
        ("reward", "reward", "reward"),
        ("correct", "accuracy", "correct"),
    ):
        change, error = paired_change(outcome.base, outcome.tuned, what)
        before, after = (_figure(each, attribute) for each in (outcome.base, outcome.tuned))
        lines.append(f"  {label:<8} {before} -> {after}   change {change:+.4f} +- {error:.4f}")
    if outcome.priors:
        counts = sorted({task.base.n for task in outcome.priors})
        rows = f"{counts[0]} to {counts[-1]} rows" if len(counts) > 1 else f"{counts[0]} rows each"
        lines.append(f"prior tasks, {rows}, share right")
        width = max(len(task.name) for task in outcome.priors)
        lines += [f"  {task.name:<{width}}  {change_text(task)}" for task in outcome.priors]
    if outcome.grader_failures:
        lines.append(
            f"grader     no score for {outcome.grader_failures:,} answers, which counted as 0"
        )
    state = "stopped after" if outcome.stopped else "done:"
    if outcome.best_step not in (None, outcome.steps):
        best = "the base model" if outcome.best_step == 0 else f"step {outcome.best_step}"
        lines.append(
            f"best       {best} has the best holdout reward: esft export {outcome.run_path} "
            "--at best --out DIR"
        )
    return "\n".join(
        [
            *lines,
            f"drift      ||D|| {outcome.drift:.4g}, forecast {outcome.forecast:.4g}",
            f"run        {state} {outcome.steps} steps, {duration(outcome.seconds)}, peak memory "
            f"{gigabytes(outcome.peak_memory)}",
            f"model      {outcome.model_path}",
            *([f"go on      esft resume {outcome.run_path}"] if outcome.stopped else []),
        ]
    )


def outcome_record(outcome: Outcome) -> dict[str, object]:
    """Return the result of a run, for programs."""
    from esft.runs.records import finite

    plain = ("task", "steps", "planned", "stopped", "best_step", "grader_failures", "drift")
    plain += ("forecast", "peak_memory")
    return {name: getattr(outcome, name) for name in plain} | {
        "run": outcome.run_path,
        "model": outcome.model_path,
        "base": finite(outcome.base.summary()),
        "tuned": finite(outcome.tuned.summary()),
        "priors": {
            task.name: {"base": finite(task.base.summary()), "tuned": finite(task.now.summary())}
            for task in outcome.priors
        },
        "seconds": round(outcome.seconds, 3),
    }


def duration(seconds: float) -> str:
    """Return a time in the two largest units that matter."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def gigabytes(nbytes: int) -> str:
    """Return a size in GB (10**9 bytes)."""
    return f"{nbytes / 1e9:.2f} GB"


_HEADS = ("step", "reward", "best", "correct", "||D||", "forecast", "a step", "left", "memory")
_WIDTHS = (8, 7, 7, 8, 8, 9, 12, 12, 8)


def _columns(*cells: str) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))


def _figure(evaluation: Evaluation, attribute: str) -> str:
    value, error = getattr(evaluation, attribute), getattr(evaluation, f"{attribute}_se")
    return f"{value:.4f} +- {error:.4f}"
