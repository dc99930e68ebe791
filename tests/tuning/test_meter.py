"""The signal meter, on rewards whose signal is known and in runs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_runs import Notes, a_recipe, given_rewards, jsonl, never

from esft.recipe.settings import Search
from esft.rollout.results import RowResult
from esft.tuning.meter import STEPS, Meter, signal_of_step, silent_rows, verdict_of
from esft.tuning.start import resume_tuning, run_tuning

QUESTION = SimpleNamespace(reference="4")
ROW = SimpleNamespace(row=SimpleNamespace(questions=[QUESTION]))
ROLLOUT = SimpleNamespace(scoring="generate", reward=None, max_new_tokens=64)


def a_session(**search):
    recipe = SimpleNamespace(search=Search(**search))
    return SimpleNamespace(train=[ROW] * 40, rollout=ROLLOUT, recipe=recipe)


def results(rewards, cut=None):
    return [[RowResult(reward=float(x), correct=x == 1, cut=cut) for x in row] for row in rewards]


def drawn(seed, spread, silent=0.0, size=(8, 24)):
    """Return rewards right or wrong, with an effect of each member, and rows that nobody gets."""
    dice = np.random.default_rng(seed)
    chance = 0.5 + spread * dice.normal(size=(size[0], 1))
    rewards = (dice.random(size) < chance).astype(float)
    rewards[:, : int(silent * size[1])] = 0.0
    return rewards


def first_steps(seed, **how):
    return [signal_of_step(results(drawn((seed, step), **how)), 0) for step in range(STEPS)]


def test_what_a_step_tells_is_counted():
    rewards = [[0, 1, 1], [0, 1, 0], [0, 1, 1], [0, math.nan, 0]]

    signal = signal_of_step(results(rewards, cut=True))

    # The last member overflowed and is left out.
    assert silent_rows(results(rewards)) == [True, True, False]
    assert (signal.silent, signal.cut, signal.chance) == (pytest.approx(2 / 3), 1.0, None)
    assert signal.solved == 0.0  # the one that overflowed is not right
    assert signal_of_step(results(rewards[:3])).solved == pytest.approx(1 / 3)
    assert signal_of_step(results(rewards[3:])) is None
    assert silent_rows(results(rewards[3:])) == [False] * 3
    assert signal_of_step(results([[0], [1]])).reliability is None


def test_pure_noise_is_seldom_called_a_signal_and_a_strong_one_is():
    noise, strong = (
        [
            verdict_of(first_steps(seed, spread=spread), a_session()).startswith("yes")
            for seed in range(40)
        ]
        for spread in (0.0, 0.3)
    )

    # One in 20 by design: 9 or more would come about in 0.02 % of cases.
    assert sum(noise) < 9
    assert sum(strong) > 38


def test_rows_seen_twice_count_once(tmp_path):
    """Greedy answers to them are the same, so that they would look like a signal."""
    found = 0
    for seed in range(20):
        meter = Meter(a_session(seed=1), tmp_path)
        for step in range(1, STEPS + 1):
            once = drawn((seed, step), 0.0, size=(8, 12))
            signal, verdict = meter.measure(
                step, [*range(12)] * 2, results(np.concatenate([once, once], axis=1))
            )
            assert signal == signal_of_step(results(once), 1)
        found += verdict.startswith("yes")

    assert found < 6  # of 20 by chance: in 0.03 % of cases; most, were they told apart


def test_the_share_of_the_ranking_that_is_signal_is_said():
    verdict = verdict_of(first_steps(1, spread=0.5), a_session())

    assert verdict.startswith("yes: ")
    assert "% of what ranks the members is signal, the rest chance" in verdict
    assert "rows tell" not in verdict


def test_rows_that_tell_nothing_are_said_with_what_to_do():
    found = verdict_of(first_steps(1, spread=0.5, silent=0.75), a_session())
    screened = verdict_of(first_steps(1, spread=0.5, silent=0.75), a_session(screen_rows=True))
    lost = verdict_of(first_steps(1, spread=0.0, silent=1.0), a_session())

    assert "75% of rows tell members nothing: easier rows, or a larger model" in found
    assert found.endswith("--set search.screen_rows=true, which leaves such rows out")
    assert "screen_rows" not in screened
    solved = [signal_of_step(results([[1.0] * 8] * 4), 0)] * STEPS
    assert "100% of rows tell members nothing, the others" in verdict_of(solved, a_session())
    assert verdict_of(solved, a_session()).endswith("try harder rows")
    assert lost.startswith("none seen yet: ")
    assert "100% of rows tell members nothing" in lost
    assert "easier rows, or a larger model, or --set task.reward=logprob" in lost


def test_answers_that_are_cut_off_are_said():
    signals = [signal_of_step(results(drawn(1, 0.5), cut=True), 0)] * STEPS

    text = verdict_of(signals, a_session())

    assert text.endswith("100% of answers are cut off: --set task.max_new_tokens=128")


class Told(Notes):
    """Keeps in which order steps and their signal were told."""

    def __init__(self):
        super().__init__()
        self.order = []

    def step(self, metrics, left):
        self.order.append(metrics.step)

    def plan(self, lines):
        self.order += [label for label, _ in lines if label == "signal"]


def test_a_run_says_it_once_after_its_third_step(tmp_path):
    told = Told()

    run_tuning(a_recipe(tmp_path, steps=5), told, never)

    lines = jsonl(tmp_path / "run" / "metrics.jsonl")
    assert told.order == [1, 2, 3, "signal", 4, 5]
    assert [line["verdict"] is not None for line in lines] == [False, False, True, False, False]
    assert all(0 <= line["signal"]["silent"] <= 1 for line in lines)
    assert all(line["signal"]["cut"] is not None for line in lines)
    assert [line["signal"]["chance"] is None for line in lines] == [False] * 3 + [True] * 2


def test_a_run_of_fewer_steps_says_it_after_its_last(tmp_path):
    told = Told()

    run_tuning(a_recipe(tmp_path, steps=2), told, never)

    assert told.order == [1, 2, "signal"]


def test_a_run_resumed_within_its_first_steps_says_the_same(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    run_tuning(a_recipe(whole), Notes(), never)
    run_tuning(a_recipe(parts), Notes(), lambda: True)

    resume_tuning(parts / "run", Notes(), never)

    said = [
        [(line["signal"], line["verdict"]) for line in jsonl(folder / "run" / "metrics.jsonl")]
        for folder in (whole, parts)
    ]
    assert said[0] == said[1]


def test_members_that_all_score_the_same_are_no_signal(tmp_path):
    notes = Notes()

    run_tuning(a_recipe(tmp_path), notes, never, given_rewards(*[1.0] * 12))

    ((label, text),) = notes.plans[-1]
    assert (label, text[:53]) == ("signal", "none seen yet: 100% of rows tell members nothing, the")


def test_a_run_killed_between_journal_and_metrics_says_it_a_step_later(tmp_path):
    calls = iter([False, False, True])
    run_tuning(a_recipe(tmp_path, steps=5), Notes(), calls.__next__)
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))

    resume_tuning(tmp_path / "run", Notes(), never)

    said = [(line["step"], line["verdict"] is not None) for line in jsonl(metrics)]
    assert said == [(1, False), (2, False), (4, True), (5, False)]
