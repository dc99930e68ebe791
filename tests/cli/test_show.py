import io
import signal
import sys
from dataclasses import replace

import pytest
from rich.console import Console
from rich.progress import Progress

from esft.cli.show import LiveWatcher, PlainWatcher, duration, show_work, wrapped
from esft.tuning.watcher import StepMetrics

METRICS = StepMetrics(
    step=12,
    reward_mean=0.25,
    reward_best=0.5,
    correct=0.125,
    grader_failures=0,
    members=30,
    drift=12.34,
    forecast=12.56,
    seconds=61.0,
    peak_memory=1_500_000_000,
    batch=64,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.7, "1 min 0 s"),
        (61, "1 min 1 s"),
        (3599.7, "1 h 0 min"),
        (3600 * 47.999, "2 d 0 h"),
        (3600 * 60, "2 d 12 h"),
    ],
)
def test_a_duration_is_told_in_the_units_that_matter(seconds, text):
    assert duration(seconds) == text


def told(tell, capsys):
    tell(PlainWatcher())
    return capsys.readouterr().err


def test_above_a_day_the_estimate_says_what_would_halve_it(capsys):
    short = told(lambda watcher: watcher.estimate(3600, 500), capsys)
    long = told(lambda watcher: watcher.estimate(100 * 3600, 500), capsys)

    assert short == "expected 1 h 0 min for 500 steps, from the first members\n"
    assert "expected 4 d 4 h for 500 steps" in long
    assert "--steps 250 would halve it" in long


def test_step_lines_stand_under_their_heads_within_80_columns(capsys):
    def tell(watcher):
        watcher.step(replace(METRICS, step=1), 500, 3600 * 30)
        watcher.step(METRICS, 500, 3600 * 30)

    head, _, line = told(tell, capsys).splitlines()

    assert head.split() == [
        "step", "reward", "best", "correct", "||D||", "forecast", "a", "step", "left", "memory"
    ]  # fmt: skip
    assert line.split() == [
        "12/500", "0.250", "0.500", "12.5%", "12.34", "12.56", "1", "min", "1", "s",
        "30", "h", "0", "min", "1.50", "GB",
    ]  # fmt: skip
    assert len(head) == len(line) <= 80


def test_long_lines_are_folded_under_their_text(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")

    lines = wrapped("label   ", "word " * 30).splitlines()

    assert lines[0].startswith("label   word")
    assert all(line.startswith("        word") for line in lines[1:])
    assert max(len(line) for line in lines) <= 40


def test_on_a_terminal_the_same_lines_stand_above_a_bar_that_moves():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    with Progress(console=console, auto_refresh=False) as progress:
        watcher = LiveWatcher(progress)

        watcher.plan([("model", "[tiny] model")])
        watcher.notice("[mind] this")
        watcher.begin()
        watcher.progress("step 12, member", 3, 30)
        progress.refresh()
        watcher.step(METRICS, 500, 60)

    text = screen.getvalue()
    for expected in ("model   [tiny] model", "Warning: [mind] this", "12/500", "member 3/30"):
        assert expected in text


class Screen(io.StringIO):
    """A terminal to write to."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("screen", "bars"), [(io.StringIO(), False), (Screen(), True)])
def test_work_that_is_not_a_run_has_a_bar_on_a_terminal_alone(screen, bars, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen)

    with show_work() as watcher:
        watcher.rebuild(0, 2, 3.0)
        watcher.progress("step", 1, 2)
        watcher.notice("mind this")
        watcher.progress("step", 2, 2)

    lines = "rebuilding steps 1 to 2 from the base model and the journal: about 3.0 s", "Warning: "
    assert all(line in screen.getvalue() for line in lines)
    assert ("| 0/2 [" in screen.getvalue()) == bars


def test_signals_wait_for_a_step_only_once_there_is_one():
    watcher = PlainWatcher()

    with watcher.signals():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        watcher.begin()
        signal.raise_signal(signal.SIGTERM)

        assert watcher.asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
