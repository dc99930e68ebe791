"""What commands show of long work on stderr, and how Ctrl-C and SIGTERM end it."""

from __future__ import annotations

import shutil
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress
    from tqdm import tqdm

    from esft.runs.records import StepMetrics
    from esft.tuning.verify import Check
    from esft.tuning.watcher import TaskScores

_COLUMNS = {"step": 8, "reward": 7, "best": 7, "correct": 8, "||D||": 8, "forecast": 9}
_COLUMNS |= {"a step": 12, "left": 12, "memory": 8}


@contextmanager
def show_run() -> Iterator[PlainWatcher]:
    """Yield what shows a run: plain lines, on a terminal above one that moves with every member."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False)
    text, bar = TextColumn("{task.description}", markup=False), BarColumn(bar_width=24)
    progress = Progress(text, bar, console=console, transient=True)
    live = console.is_terminal
    watcher = LiveWatcher(progress) if live else PlainWatcher()
    with watcher.signals(), progress if live else nullcontext():
        yield watcher


@contextmanager
def show_work() -> Iterator[PlainWatcher]:
    """Yield what shows long work that is not a run: plain lines, on a terminal a bar too."""
    with closing(BarWatcher()) as watcher, watcher.signals():
        yield watcher


class PlainWatcher:
    """Prints lines to stderr: what `esft.tuning.watcher.Watcher` promises.

    The first signal asks to stop after the step in hand, the second stops at once. Until `begin`
    there is no step to finish, so the first stops at once as well.
    """

    _begun = _asked = _headed = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Heed Ctrl-C and SIGTERM in the block."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked or not self._begun:
            raise KeyboardInterrupt
        self._asked = True
        text = "Stopping after this step, then saving the model; once more stops at once."
        click.echo(text, err=True)

    def asked(self) -> bool:
        """Return whether the run is to end after the step in hand."""
        return self._asked

    def plan(self, lines: Iterable[tuple[str, str]]) -> None:
        for label, text in lines:
            self._print(wrapped(f"{label:<8}", text))

    def begin(self) -> None:
        self._begun = True

    def phase(self, text: str) -> None:
        self._print(wrapped("", f"{text} ..."))

    def rebuild(self, since: int, to: int, seconds: float) -> None:
        steps = f"step {to}" if to == since + 1 else f"steps {since + 1} to {to}"
        start = "the base model" if since == 0 else f"step {since}"
        self._print(f"rebuilding {steps} from {start} and the journal: about {duration(seconds)}")

    def progress(self, text: str, done: int, total: int) -> None:
        """Print nothing: a line each time is too much."""

    def estimate(self, seconds: float, steps: int) -> None:
        self._print(f"expected {duration(seconds)} for {steps} steps, from the first members")
        if seconds > 24 * 3600:
            self._print(f"hint: --steps {max(1, steps // 2)} would halve it")

    def step(self, metrics: StepMetrics, steps: int, seconds_left: float) -> None:
        if not self._headed:
            self._headed = True
            self._print(columns(_COLUMNS, _COLUMNS.values()))
        cells = (
            f"{metrics.step}/{steps}",
            f"{metrics.reward_mean:.3f}",
            f"{metrics.reward_best:.3f}",
            "-" if metrics.correct is None else f"{metrics.correct:.1%}",
            f"{metrics.drift:.4g}",
            f"{metrics.forecast:.4g}",
            duration(metrics.seconds),
            duration(seconds_left),
            f"{metrics.peak_memory / 1e9:.2f} GB",
        )
        self._print(columns(cells, _COLUMNS.values()))

    def evaluation(self, step: int, scores: tuple[TaskScores, ...]) -> None:
        for number, task in enumerate(scores):
            label = f"  {'target' if number == 0 else 'prior ':<6} {task.name:<22}"
            self._print(f"{label} {change_text(task)}")

    def notice(self, text: str) -> None:
        self._print(wrapped("Warning: ", text))

    def _print(self, text: str) -> None:
        click.echo(text, err=True)


class LiveWatcher(PlainWatcher):
    """Prints the same above a line of rich."""

    def __init__(self, progress: Progress) -> None:
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


def wrapped(label: str, text: str, **how: Any) -> str:
    """Return label and text folded to the terminal's width, at most 100, under the text."""
    width = min(100, shutil.get_terminal_size().columns)
    form = {"break_long_words": False, "break_on_hyphens": False} | how
    indents = {"initial_indent": label, "subsequent_indent": " " * len(label)}
    return textwrap.fill(text, width, **(indents | form))


def columns(cells: Iterable[str], widths: Iterable[int]) -> str:
    """Return a line of a table, each cell at the right end of its width."""
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def check_text(check: Check) -> str:
    """Return what a check found, with its hint below."""
    label = f"{check.result.replace('not applicable', 'n/a'):<7}{check.what:<14} "
    lines = [wrapped(label, check.text)]
    if check.hint is not None:
        lines.append(wrapped(" " * len(label), f"Hint: {check.hint}"))
    return "\n".join(lines)


def change_text(scores: TaskScores) -> str:
    """Return the share right before and now, with the change row by row, and their errors."""
    from esft.rollout.results import paired_change

    change, error = paired_change(scores.base, scores.now, "correct")
    return (
        f"{scores.base.accuracy:.3f} -> {scores.now.accuracy:.3f} +- {scores.now.accuracy_se:.3f}"
        f"   change {change:+.3f} +- {error:.3f}"
    )


def duration(seconds: float) -> str:
    """Return a time in the two largest units that matter."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
