import io
import json
import signal
import sys
import time
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from esft.cli.live import LiveWatcher, bar, sparkline, watch
from esft.cli.outcome import show_outcome
from esft.cli.show import PlainWatcher, duration, sample_lines, show_work, wrapped
from esft.engine.journal import Back
from esft.rollout.results import Evaluation, RowResult
from esft.runs.budget import Budget, Spent
from esft.runs.steps import StepMetrics
from esft.tuning.answers import Sample
from esft.tuning.clock import Left
from esft.tuning.peak import Peak
from esft.tuning.watcher import Outcome

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


BASE = Evaluation((RowResult(reward=0.25, correct=False), RowResult(reward=0.125, correct=True)))


def told(tell, capsys):
    watcher = PlainWatcher()
    watcher.begin(BASE, 0, 500)
    tell(watcher)
    return capsys.readouterr().err


def test_step_lines_stand_under_their_heads_and_the_base_within_80_columns(capsys):
    def tell(watcher):
        watcher.step(replace(METRICS, step=1), Left(1.0, 3600 * 30))
        watcher.step(METRICS, Left(1.0, 3600 * 30))

    _, head, base, _, line = told(tell, capsys).splitlines()

    assert head.split() == [
        "step", "reward", "best", "correct", "||D||", "forecast", "a", "step", "left"
    ]  # fmt: skip
    assert base.split() == ["base", "0.188", "50.0%", "0"]
    assert line.split() == [
        "12/500", "0.250", "0.500", "12.5%", "12.34", "12.56", "1", "min", "1", "s",
        "30", "h", "0", "min",
    ]  # fmt: skip
    assert len(head) == len(line) <= 80
    assert base.index("50.0%") + 5 == head.index("correct") + 7


def test_a_column_is_there_only_where_it_says_something(capsys):
    plain = replace(METRICS, correct=None, forecast=METRICS.drift * 1.005)

    text = told(lambda watcher: [watcher.step(one, None) for one in (plain, METRICS)], capsys)

    heads = [line.split() for line in text.splitlines() if "reward" in line]
    assert heads[0] == ["step", "reward", "best", "||D||", "a", "step", "left"]
    assert len(heads) == 2  # once more, from where the drift is not as forecast
    assert {"correct", "forecast"} < set(heads[1])


def test_after_ctrl_c_it_says_how_long_the_step_still_takes(capsys):
    def tell(watcher):
        watcher.members(3, 30, Left(65.0, 3600.0))
        watcher.on_signal(signal.SIGINT, None)

    assert "Stopping after this step, which takes 1 min" in told(tell, capsys)


ROW = RowResult(reward=0.5, correct=True, answers=("Mercury is\n\nHg.",))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_row_takes_two_lines_within_the_width_and_one_more_where_answers_are_long(
    width, monkeypatch
):
    monkeypatch.setenv("COLUMNS", str(width))
    long = replace(ROW, answers=("word 水 " * 60,))
    asked = "What is " + "very " * 60

    short = sample_lines(Sample(asked=asked, wanted="Hg", answers=(("base", ROW),)))
    both = sample_lines(Sample(asked=asked, wanted="Hg", answers=(("base", long), ("tuned", ROW))))

    assert len(short) == 2
    assert short[0].endswith("…  (right: Hg)")
    assert short[1] == "    0.50 right: Mercury is Hg."
    assert [line.split()[0] for line in both[1:]] == ["base", "tuned"]
    assert both[1].endswith("…")
    assert all(cell_len(line) <= width for line in (*short, *both))
    pair = sample_lines(Sample(asked="Hg?", wanted=None, answers=(("base", ROW), ("tuned", ROW))))
    assert len(pair) == (2 if width > 70 else 3)
    assert pair[0] == "  Hg?"
    verbose = sample_lines(Sample(asked="Hg?", wanted="word " * 60, answers=(("base", ROW),)))
    assert verbose[0] == "  Hg?"


def test_long_lines_are_folded_under_their_text(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")

    lines = wrapped("label   ", "word " * 30).splitlines()

    assert lines[0].startswith("label   word")
    assert all(line.startswith("        word") for line in lines[1:])
    assert max(len(line) for line in lines) <= 40


def test_on_a_terminal_the_same_lines_stand_above_one_that_says_whether_it_works():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    watcher = LiveWatcher(console)
    with watcher.live:
        watcher.plan([("model", "[tiny] model")])
        watcher.notice("[mind] this")
        watcher.begin(BASE, 10, 500)
        for step, reward in ((11, 0.1), (12, 0.4)):
            watcher.step(replace(METRICS, step=step, reward_mean=reward), None)
        watcher.members(15, 30, Left(65.0, 3725.0))
        watcher.live.refresh()
        before = watcher.line().plain
        watcher.on_signal(signal.SIGINT, None)
        after = watcher.line().plain
        watcher.phase("saving")
        saving = watcher.line().plain

    text = screen.getvalue()
    for expected in ("model   [tiny] model", "Warning: [mind] this", "12/500", before[:30]):
        assert expected in text
    assert "a step\n" in text.replace("\r", "")  # not what was left then: the line tells it anew
    assert before.startswith("12/500 steps  ──────")
    assert "0:00 gone, 1:02:05 left  reward ▁█ 0.40, base 0.19" in before
    assert "stopping after this step, 1 min 5 s left" in after or "1 min 4 s left" in after
    assert saving.startswith("saving")
    assert max(map(len, (before, after, saving))) <= 80


def test_a_time_is_shown_as_by_a_stopwatch():
    assert [watch(seconds) for seconds in (0.4, 61, 3599.6, 36_000)] == [
        "0:00", "1:01", "1:00:00", "10:00:00"
    ]  # fmt: skip


def test_a_bar_is_as_full_as_the_work_is_done():
    assert bar(0, 4) == "────"
    assert bar(0.5, 4) == "━━──"
    assert bar(1, 4, plain=True) == "####"


def test_a_line_of_rewards_goes_from_the_lowest_to_the_highest():
    assert sparkline([-3.0, -1.0, -2.0]) == "▁█▅"
    assert sparkline([0.5, 0.5]) == "▁▁"


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
        time.sleep(0.3)  # the line moves four times a second
        watcher.progress("step", 2, 2)

    lines = "rebuilding steps 1 to 2 from the base model and the journal: about 3.0 s", "Warning: "
    assert all(line in screen.getvalue() for line in lines)
    assert ("step  ━━━━" in screen.getvalue()) == bars


def test_signals_wait_for_a_step_only_once_there_is_one():
    watcher = PlainWatcher()

    with watcher.signals():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        watcher.begin(BASE, 0, 500)
        signal.raise_signal(signal.SIGTERM)

        assert watcher.asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_result_comes_above_the_line_on_a_terminal_and_else_to_stdout(is_terminal, monkeypatch):
    screen, out = io.StringIO(), io.StringIO()
    out.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stdout", out)
    watcher = LiveWatcher(Console(file=screen, force_terminal=True, width=80, color_system=None))

    watcher.result("[ok] good")

    assert ("[ok] good" in screen.getvalue(), "[ok] good\n" in out.getvalue()) == (
        (True, False) if is_terminal else (False, True)
    )


PEAK = Peak(
    step=10, reward=0.5, reward_se=0.01, rows=200, since=(15, 20), change=-0.2, low=-0.3, high=-0.1,
    level=0.99,
)  # fmt: skip


OUTCOME = Outcome(
    run_path="runs/a", model_path="runs/a/model", steps=20, planned=20, stopped=False,
    task="a", base=BASE, tuned=BASE, peak=None, best_step=20, priors=(), samples=(),
    grader_failures=0, drift=1.0, forecast=1.0, seconds=1.0, peak_memory=1, times=None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("best", "peak", "said", "first"),
    [
        (10, PEAK, "peak       step 10, reward 0.5000 +- 0.0100 on 200", "esft ask a"),
        (0, replace(PEAK, step=0), "peak       the base model, reward 0.5", "esft ask a"),
        (
            0,
            None,
            "no evaluation has a better holdout reward than the base",
            "esft resume a --steps 40",
        ),
        (
            10,
            None,
            "step 10 has the best holdout reward: esft export runs/a --at best",
            "esft ask a",
        ),
        (20, None, None, "esft ask a"),
    ],
)
def test_the_end_says_what_was_best_and_what_to_type_next(best, peak, said, first, capsys):
    show_outcome(replace(OUTCOME, peak=peak, best_step=best), as_json=False)

    text, _, then = capsys.readouterr().out.partition("next:\n")
    assert ("best  " in text) == (said is not None and peak is None)
    assert (said or "") in text
    assert then.split("  ")[1].startswith(first)


BACK = Back(step=20, to=10, was=0.0, awd=0.02, kl=0.0714, kl_se=0.0061, drift=31.25)


def test_the_end_says_each_time_that_a_run_was_above_a_budget_and_why_it_ended_there(capsys):
    outcome = replace(
        OUTCOME,
        best_step=0,
        budget=Budget(max_kl=0.05, max_drift=30.0),
        backs=(BACK, replace(BACK, to=0, was=0.02, awd=0.04, drift=1.0)),
        spent=Spent(step=10, at=20, above="KL 0.06 is above --max-kl 0.05", decays=(0.02, 0.04)),
        kl=0.0312,
        kl_se=0.004,
    )

    show_outcome(outcome, as_json=False)
    text = " ".join(capsys.readouterr().out.split())
    show_outcome(outcome, as_json=True)
    record = json.loads(capsys.readouterr().out)

    kl = "step 20: KL 0.0714 +- 0.0061 is above --max-kl 0.05"
    assert f"{kl} and ||D|| 31.25 is above --max-drift 30: back to step 10, decay 0 -> 0.02" in text
    assert f"{kl}: back to the base model, decay 0.02 -> 0.04" in text
    ended = "step 20: KL 0.06 is above --max-kl 0.05, also with the decays 0.02, 0.04: the end; "
    assert f"{ended}model/ is that of step 10, the best within" in text
    assert "KL 0.0312 +- 0.004 nats a token from the base model" in text
    assert "--steps 40" not in text
    assert record["budget"]["ended"]["step"] == 10
    assert [back["awd"] for back in record["budget"]["backs"]] == [0.02, 0.04]
    assert (record["budget"]["max_kl"], record["kl"], record["kl_se"]) == (0.05, 0.0312, 0.004)
