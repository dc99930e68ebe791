"""What commands show of long work on stderr, and how Ctrl-C and SIGTERM end it."""

from __future__ import annotations

import shutil
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from esft.hub import showing_downloads

if TYPE_CHECKING:
    from esft.rollout.results import Evaluation, RowResult
    from esft.runs.steps import StepMetrics
    from esft.tuning.answers import Sample
    from esft.tuning.clock import Left
    from esft.tuning.verify import Check
    from esft.tuning.watcher import TaskScores

_WIDTHS = {
    "step": 9,
    "reward": 9,
    "best": 9,
    "correct": 9,
    "||D||": 9,
    "forecast": 10,
    "changed": 9,
}
_WIDTHS |= {"a step": 12, "left": 13}


@contextmanager
def show_work() -> Iterator[PlainWatcher]:
    """Yield what shows long work: plain lines, on a terminal above one that moves."""
    from rich.console import Console

    from esft.cli.live import LiveWatcher
    from esft.tuning.ranks import place

    if place().rank:
        watcher = SilentWatcher()
        with watcher.signals():
            yield watcher
        return
    # The stream of now, since libraries are kept from the screen by taking it away.
    console = Console(file=sys.stderr, highlight=False)
    watcher = LiveWatcher(console) if console.is_terminal else PlainWatcher()
    live = watcher.live if console.is_terminal else nullcontext()
    with watcher.signals(), showing_downloads(watcher.progress), live:
        yield watcher


class PlainWatcher:
    """Prints lines to stderr: what `esft.tuning.watcher.Watcher` promises.

    The first signal asks to stop after the step in hand, the second stops at once. Until `begin`
    there is no step to finish, so the first stops at once as well.
    """

    hidden: tuple[str, ...] = ()  # columns of the table of steps
    _begun = _asked = False
    _columns: tuple[str, ...] = ()  # of the table of steps, as its heading has them
    _base: Evaluation
    _steps: int
    _told: tuple[float, Left] | None = None  # when it was told, and what is left then

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
        left = self.left("step")
        takes = "" if left is None else f", which takes {duration(left)} more"
        text = f"Stopping after this step{takes}, then saving the model; once more stops at once."
        self._print(wrapped("", text))

    def asked(self) -> bool:
        """Return whether the run is to end after the step in hand."""
        return self._asked

    def left(self, what: str) -> float | None:
        """Return the seconds that "step" or "run" still takes; None where nothing tells."""
        told = self._told  # once: another thread draws the line
        return None if told is None else max(0.0, getattr(told[1], what) + told[0] - monotonic())

    def plan(self, lines: Iterable[tuple[str, str]]) -> None:
        for label, text in lines:
            self._print(wrapped(f"{label:<8}", text))

    def begin(self, base: Evaluation, done: int, steps: int) -> None:
        self._base, self._steps, self._begun = base, steps, True

    def phase(self, text: str) -> None:
        self._print(wrapped("", f"{text} ..."))

    def rebuild(self, since: int, to: int, seconds: float) -> None:
        steps = f"step {to}" if to == since + 1 else f"steps {since + 1} to {to}"
        start = "the base model" if since == 0 else f"step {since}"
        self._print(f"rebuilding {steps} from {start} and the journal: about {duration(seconds)}")

    def progress(self, text: str, done: int, total: int) -> None:
        """Print nothing: a line each time is too much."""

    def members(self, done: int, total: int, left: Left | None) -> None:
        self._tell_left(left)

    def step(self, metrics: StepMetrics, left: Left | None) -> None:
        from esft.tuning.watcher import as_forecast

        self._tell_left(left)
        cells = {
            "step": f"{metrics.step}/{self._steps}",
            "reward": f"{metrics.reward_mean:.3f}",
            "best": f"{metrics.reward_best:.3f}",
            "correct": "" if metrics.correct is None else f"{metrics.correct:.1%}",
            "||D||": f"{metrics.drift:.4g}",
            "forecast": f"{metrics.forecast:.4g}",
            "changed": "" if metrics.changed is None else f"{metrics.changed:.2%}",
            "a step": duration(metrics.seconds),
            "left": "" if left is None else duration(left.run),
        }
        # What says nothing is left out: no answers, or a drift as forecast until it is not once.
        hidden = set(self.hidden)
        hidden |= {name for name in ("correct", "changed") if getattr(metrics, name) is None}
        if "forecast" not in self._columns and as_forecast(metrics.drift, metrics.forecast):
            hidden.add("forecast")
        shown = tuple(name for name in cells if name not in hidden)
        if shown != self._columns:
            self._columns = shown
            self._heading()
        self._row(cells)

    def answers(self, title: str, samples: Sequence[Sample]) -> None:
        if samples:
            self._print(f"{title}:" if self._columns else f"\n{title}:")
        for sample in samples:
            for line in sample_lines(sample):
                self._print(line)

    def evaluation(self, step: int, scores: tuple[TaskScores, ...]) -> None:
        for number, task in enumerate(scores):
            label = f"  {'target' if number == 0 else 'prior ':<6} {task.name:<22}"
            self._print(f"{label} {change_text(task)}")
        if (kl := scores[0].kl) is not None:
            self._print(f"  {'KL from the base model':<29} {kl_text(kl, scores[0].kl_se)}")

    def notice(self, text: str) -> None:
        self._print(wrapped("Warning: ", text))

    def result(self, text: str) -> None:
        """Print to stdout, where a result goes."""
        click.echo(text)

    def _heading(self) -> None:
        """Print the heading of the table of steps, and the base model as its first row."""
        self._print("")
        self._row({name: name for name in self._columns})
        base = {"step": "base", "reward": f"{self._base.reward:.3f}"}
        self._row(base | {"correct": f"{self._base.accuracy:.1%}", "||D||": "0"})

    def _row(self, cells: dict[str, str]) -> None:
        line = (f"{cells.get(name, ''):>{_WIDTHS[name]}}" for name in self._columns)
        self._print("".join(line).rstrip())

    def _tell_left(self, left: Left | None) -> None:
        self._told = None if left is None else (monotonic(), left)

    def _print(self, text: str) -> None:
        click.echo(text, err=True)


class SilentWatcher(PlainWatcher):
    """Shows nothing: a process of a torchrun that rank 0 shows for, and that ends when it does."""

    _begun = True  # the first signal is for rank 0 to heed

    def _print(self, text: str) -> None:
        """Print nothing."""


def sample_lines(sample: Sample) -> list[str]:
    """Return a row and its answers, each a line as wide as the terminal at most; two answers that
    are short enough share one."""
    from rich.cells import cell_len

    width = shutil.get_terminal_size().columns
    wanted = "" if sample.wanted is None else f"  (right: {' '.join(sample.wanted.split())})"
    room = width - cell_len(wanted)
    if room < width / 2:  # a right answer as long as that says more in the file
        wanted, room = "", width
    alone = len(sample.answers) == 1
    lines = [f"{'' if alone else f'{who} '}{answer_text(one)}" for who, one in sample.answers]
    together = " -> ".join(lines)
    lines = [together] if cell_len(together) <= width - 4 else lines
    asked = cut_to(f"  {' '.join(sample.asked.split())}", room) + wanted
    return [asked, *(cut_to(f"    {line}", width) for line in lines)]


def answer_text(result: RowResult) -> str:
    """Return reward, whether it is right, and the answer, on one line."""
    words = " ".join(" | ".join(result.answers).split())
    judged = {None: "", True: " right", False: " wrong"}[result.correct]
    return f"{result.reward:.2f}{judged}: {words or '(nothing)'}"


def cut_to(text: str, width: int) -> str:
    """Return a text of at most `width` columns."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


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


def kl_text(kl: float, error: float | None) -> str:
    """Return a KL divergence with its error and unit."""
    return f"{kl:.3g}{'' if error is None else f' +- {error:.2g}'} nats a token"


def duration(seconds: float) -> str:
    """Return a time in the two largest units that matter."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
