"""The line at the foot of a terminal: what is being done, how far it is, and how long it takes."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.live import Live
from rich.text import Text

from esft.cli.show import PlainWatcher, duration, wrapped

if TYPE_CHECKING:
    from rich.console import Console

    from esft.rollout.results import Evaluation
    from esft.runs.steps import StepMetrics
    from esft.tuning.clock import Left

_LEVELS = "▁▂▃▄▅▆▇█"
_LAST = 6  # steps whose rewards are drawn
_BAR = 24


class LiveWatcher(PlainWatcher):
    """Prints lines above one that moves."""

    hidden = ("left",)  # the moving line says it, and says it anew

    def __init__(self, console: Console) -> None:
        self._console = console
        self._doing, self._counted = "", (0, 0)
        self._began = self._began_doing = time.monotonic()  # the steps; anything else
        self._done = 0.0  # steps, with the share of members of the one in hand
        self._rewards: list[float] = []
        self.live = Live(
            console=console, get_renderable=self.line, transient=True, refresh_per_second=4
        )

    def phase(self, text: str) -> None:
        self.progress(text, 0, 0)

    def progress(self, text: str, done: int, total: int) -> None:
        if text != self._doing:
            self._began_doing = time.monotonic()
        self._doing, self._counted = text, (done, total)

    def begin(self, base: Evaluation, done: int, steps: int) -> None:
        super().begin(base, done, steps)
        self._doing, self._began, self._done = "", time.monotonic(), done

    def members(self, done: int, total: int, left: Left | None) -> None:
        super().members(done, total, left)
        self._doing, self._done = "", int(self._done) + min(done / total, 0.999)

    def step(self, metrics: StepMetrics, left: Left | None) -> None:
        self._done = metrics.step
        self._rewards.append(metrics.reward_mean)
        super().step(metrics, left)

    def notice(self, text: str) -> None:
        self._console.print(wrapped("Warning: ", text), style="yellow", markup=False)

    def result(self, text: str) -> None:
        if sys.stdout.isatty():  # the same screen: above the line that moves
            self._print(text)
        else:
            super().result(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def line(self) -> Text:
        """Return the line as it is now; called several times a second."""
        width, plain = self._console.width, self._console.options.ascii_only
        if self._doing:
            done, total = self._counted
            gone = time.monotonic() - self._began_doing
            parts = [self._doing, f"{done}/{total}" if total else "", f"({duration(gone)})"]
            share = done / total if total else None
        elif self._begun:
            parts, share = self._run_parts(plain), self._done / self._steps
        else:
            return Text("")
        room = width - 2 - len("  ".join(filter(None, parts)))
        if share is not None and room >= 6:
            parts.insert(1, bar(share, min(_BAR, room - 2), plain))
        return Text("  ".join(filter(None, parts)), no_wrap=True, overflow="ellipsis")

    def _run_parts(self, plain: bool) -> list[str]:
        parts, left = [f"{int(self._done)}/{self._steps} steps"], self.left("run")
        if self._asked:
            left = self.left("step")
            left = "" if left is None else f", {duration(left)} left"
            return [*parts, f"stopping after this step{left}"]
        times = [f"{watch(time.monotonic() - self._began)} gone"]
        if left is not None:
            times.append(f"{watch(left)} left")
        parts.append(", ".join(times))
        if self._rewards:
            drawn = "" if plain else f"{sparkline(self._rewards[-_LAST:])} "
            parts.append(f"reward {drawn}{self._rewards[-1]:.2f}, base {self._base.reward:.2f}")
        return parts


def watch(seconds: float) -> str:
    """Return a time as a stopwatch shows it: short, and as wide from one second to the next."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def bar(share: float, width: int, plain: bool = False) -> str:
    """Return a bar of `width` columns of which a share, 0 to 1, is full."""
    full, empty = ("#", "-") if plain else ("━", "─")
    filled = round(share * width)
    return full * filled + empty * (width - filled)


def sparkline(values: list[float]) -> str:
    """Return a column for each value, the lowest and the highest as low and as high as it goes."""
    low, span = min(values), max(values) - min(values)
    top = len(_LEVELS) - 1
    return "".join(_LEVELS[round((value - low) / span * top) if span else 0] for value in values)
