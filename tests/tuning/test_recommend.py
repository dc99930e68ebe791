"""What a probe recommends of what members at some sigmas tell."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from esft.recipe.settings import Model, Recipe, TaskSettings
from esft.rollout.results import RowResult, kept_right
from esft.stats.intervals import Interval
from esft.stats.signal import Signal
from esft.tuning.probe import verdict_of
from esft.tuning.recommend import REACH, STANDS, picked, reach_by, reach_of, recommended

RECIPE = Recipe(model=Model(id="embedded"), task=TaskSettings(name="subtract-two-digits"))
QUESTION = SimpleNamespace(reference="4")
ROW = SimpleNamespace(row=SimpleNamespace(questions=[QUESTION]))
ROLLOUT = SimpleNamespace(scoring="generate", reward=None)
SESSION = SimpleNamespace(train=[ROW] * 40, rollout=ROLLOUT)
SIGNAL = Signal(
    change=0.0,
    change_se=0.01,
    spread=0.1,
    improving=0.5,
    improving_interval=Interval(0.3, 0.7, 0.95),
    best={5: 0.1, 20: 0.2},
    nearly=12,
    reliability=0.6,
    p_value=0.001,
    telling=1.0,
    overflowed=0,
)


def results(*rewards):
    return [RowResult(reward=reward, correct=reward == 1) for reward in rewards]


def advised(tried, base=(0.0, 1.0) * 20, recipe=RECIPE):
    return recommended(recipe, SESSION, results(*base), tried)


def test_the_sigma_is_that_whose_best_gains_most_when_chance_is_taken_off():
    lucky = replace(SIGNAL, best={5: 0.3}, reliability=0.2)  # 0.06, against 0.12
    destroyed = replace(SIGNAL, best={5: 9.0}, reliability=1.0)

    one = advised({0.1: ("works", SIGNAL), 0.2: ("works", lucky), 0.4: ("too large", destroyed)})

    assert (one.sigma, one.verdict) == (0.1, "works")
    search = replace(RECIPE.search, sigma=one.sigma, alpha=one.alpha, population=one.population)
    assert reach_of(search) == pytest.approx(REACH, rel=0.05)


@pytest.mark.parametrize(
    ("reliability", "per_step", "members"),
    [
        (0.6, None, 20),  # 12 / 0.6: a step sees the 40 rows that the probe saw
        (0.6, 20, 28),  # half of them: 0.43
        (1.0, None, 12),
        (1.0, 1, 12),
        (0.05, None, 64),
        (-1.0, None, 64),
    ],
)
def test_the_population_is_what_twelve_exact_rewards_are_worth(reliability, per_step, members):
    recipe = replace(RECIPE, task=replace(RECIPE.task, rows_per_step=per_step))

    one = advised({0.1: ("works", replace(SIGNAL, reliability=reliability))}, recipe=recipe)

    assert one.population == members


@pytest.mark.parametrize(
    ("base", "kinds", "verdict", "why", "reward"),
    [
        ((1.0,) * 8, ["mute", "no signal"], "no signal", "all 8 rows are right", "logprob"),
        ((0.0,) * 8, ["mute", "mute"], "no signal", "no row of 8 earns anything", "logprob"),
        ((0.0, 1.0), ["mute", "mute"], "mute", "--sigmas above 0.2", "logprob"),
        ((0.0, 1.0), ["mute", "too large"], "mute", "between those tried", "logprob"),
        ((0.0, 1.0), ["mute", "no signal"], "no signal", "apart is chance", "logprob"),
        ((0.0, 1.0), ["too large"] * 2, "too large", "below 0.1", None),
    ],
)
def test_where_nothing_works_it_says_why(base, kinds, verdict, why, reward):
    tried = {sigma: (kind, SIGNAL) for sigma, kind in zip((0.1, 0.2), kinds, strict=True)}

    one = advised(tried, base)

    assert (one.sigma, one.alpha, one.population) == (None, None, None)
    assert (one.verdict, one.reward) == (verdict, reward)
    assert why in one.why


def like(**changes):
    return replace(SIGNAL, **{"best": {}, "reliability": 0.0, "p_value": 0.5} | changes)


MUTE = like(telling=0.0, spread=0.0)
FELL = like(change=-0.16, change_se=0.12, spread=0.08)


@pytest.mark.parametrize(
    ("tried", "sigma", "told"),
    [
        ({1: ("no signal", like()), 2: ("works", SIGNAL), 4: ("no signal", like())}, 2, True),
        ({1: ("no signal", like()), 2: ("no signal", like()), 4: ("too large", FELL)}, 2, True),
        # By more than members differ, if not by more than chance does.
        ({1: ("mute", MUTE), 2: ("no signal", like()), 4: ("no signal", FELL)}, 2, True),
        ({1: ("mute", MUTE), 2: ("no signal", like()), 4: ("mute", MUTE)}, 2, True),
        # A base that earns nothing has nothing to lose: the largest may destroy it unseen.
        ({1: ("mute", MUTE), 2: ("mute", MUTE), 4: ("mute", MUTE)}, 2, False),
        ({1: ("too large", FELL), 2: ("too large", FELL), 4: ("too large", FELL)}, 1, False),
        ({3: ("mute", MUTE)}, 3, False),
    ],
)
def test_a_run_takes_a_sigma_that_members_stand(tried, sigma, told):
    found, why, was_told = picked(tried)

    assert (found, was_told) == (sigma, told)
    assert why


def test_right_answers_kept_are_those_of_rows_that_the_base_has_right():
    base = results(1, 1, 1, 1, 0, 0)

    share, error = kept_right([results(1, 1, 0, 0, 1, 1), results(1, 0, 0, 0, 1, 1)], base)

    assert share == pytest.approx(3 / 8)
    assert error == pytest.approx((11 / 48) ** 0.5 / 2)  # of shares 1, 1/2, 0, 0
    assert kept_right([results(1, 1, 1, 1)], results(1, 1, 1, 0)) is None


@pytest.mark.parametrize(
    ("kept", "verdict"),
    [((0.3, 0.05), "too large"), ((0.3, 0.15), "works"), ((0.6, 0.01), "works"), (None, "works")],
)
def test_a_sigma_that_surely_costs_most_right_answers_is_too_large_whatever_is_earned(
    kept, verdict
):
    assert verdict_of(SIGNAL, kept)[0] == verdict


def test_a_run_walks_at_most_a_share_of_the_smallest_sigma_that_is_too_large():
    verdicts = {0.001: "too large", 0.006: "works", 0.018: "too large", 0.1: "too large"}

    assert reach_by(verdicts, 0.006) == pytest.approx(3 * STANDS)
    assert reach_by(verdicts | {0.018: "works", 0.1: "works"}, 0.006) == REACH
    wide = advised({0.1: ("works", SIGNAL), 0.3: ("too large", SIGNAL)})
    free = advised({0.1: ("works", SIGNAL), 0.3: ("mute", SIGNAL)})
    assert wide.alpha == pytest.approx(free.alpha * 1.5 / 2, rel=0.05)


def test_of_codes_a_walk_counts_in_what_members_take():
    search = replace(RECIPE.search, sigma=0.01, alpha=2.5, population=50, steps=300)

    assert reach_of(search, "int4") == pytest.approx(2.5 * 6**0.5)
    shared = replace(search, noise="lowrank", alpha=0.025)  # in units of floats
    assert reach_of(shared, "int4") == reach_of(shared) == pytest.approx(2.5 * 6**0.5)
