"""What is told before the first step: what a decay will do, which sigma moves the weights."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from esft.engine import Member, Weights
from esft.engine.forecast import forecast_norm
from esft.engine.perturb import unmoved_share
from esft.recipe.settings import Anchor, Search
from esft.tuning.outlook import decay_effect
from esft.tuning.plan import UNMOVED, moving_sigma

NUMEL = 10**6
PUBLISHED = Search(steps=500, population=30, alpha=5e-4, seed=0)


@pytest.mark.parametrize(
    ("anchor", "told", "forecast"),
    [
        # alpha * sqrt(d * T / N): the random walk of the published settings.
        ({}, "none: the drift is free, ||D|| forecast", 2.04),
        (
            {"awd": 10.0, "norm": "l2"},
            "L2, alpha * lambda 0.005 a step, half-life 139 steps",
            0.906,
        ),
        (
            {"awd": 0.01, "norm": "l1"},
            "L1, alpha * lambda 5e-06 a step, against a random-walk step of 9.1e-05",
            1.04,
        ),
        (
            {"awd": 10.0, "norm": "l2", "move": "ema", "tau": 0.05},
            "half-life 139 steps, towards an anchor that follows about 20 steps behind; ||D||",
            1.86,
        ),
        (
            {"awd": 0.01, "norm": "l1", "move": "ema"},
            "a weight, towards an anchor that follows about 50 steps behind; ||D||",
            1.39,
        ),
        ({"awd": 2000.0, "norm": "l2"}, "alpha * lambda 1 a step, half-life 1 step;", 0.0),
    ],
)
def test_a_decay_is_told_by_its_pull_and_by_the_forecast_of_the_drift(anchor, told, forecast):
    text, warning = decay_effect(NUMEL, PUBLISHED, Anchor(**anchor))

    assert told in text
    held = float(re.search(r"forecast ([\d.]+) after the last step", text).group(1))
    assert held == pytest.approx(forecast, rel=0.02)
    assert warning is None


def test_the_forecast_of_an_annealed_run_is_shorter():
    annealed = replace(PUBLISHED, anneal="linear", alpha_end=0.1)
    text, _ = decay_effect(NUMEL, annealed, Anchor())

    # The mean square of a fall from 1 to 0.1.
    held = float(re.search(r"forecast ([\d.]+) after the last step", text).group(1))
    assert held == pytest.approx(2.04 * 0.37**0.5, rel=0.01)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_decay_is_warned_of_just_where_its_forecast_is_within_a_percent_of_none(norm):
    free = forecast_norm(NUMEL, 500, 30, 30, 5e-4)
    warned = {}
    for awd in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        held = forecast_norm(NUMEL, 500, 30, 30, 5e-4, awd, norm)
        _, warning = decay_effect(NUMEL, PUBLISHED, Anchor(awd=awd, norm=norm))
        warned[held >= 0.99 * free] = warning

    assert "does next to nothing within 500 steps" in warned[True]
    assert warned[False] is None


@pytest.mark.parametrize(
    ("anchor", "held", "most"),
    [
        ({}, 2.04, 2.84),
        ({"awd": 10.0, "norm": "l2"}, 0.906, 1.26),
        ({"awd": 0.01, "norm": "l1"}, 1.04, 1.79),
    ],
)
def test_with_antithetic_pairs_the_plan_says_the_range_of_the_drift(anchor, held, most):
    search = replace(PUBLISHED, antithetic=True)

    text, _ = decay_effect(NUMEL, search, Anchor(**anchor))

    told = re.search(r"forecast ([\d.]+) after the last step \(0 to ([\d.]+), as rewards", text)
    # Without signal S is N^2 / (N - 1), with opposite rewards in all pairs 2 N.
    assert float(told[1]) == pytest.approx(held, rel=0.03)
    assert float(told[2]) == pytest.approx(most, rel=0.03)


def test_ranks_drift_less_than_z_scores_by_their_spread():
    text, _ = decay_effect(NUMEL, replace(PUBLISHED, shaping="ranks"), Anchor())

    told = float(re.search(r"forecast ([\d.]+) after", text)[1])
    assert told == pytest.approx(2.04 * (31 / (12 * 29)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("awd", "half"), [(2e-304, "6.9e+306"), (1e-6, "1.4e+09"), (0.1, "13,863")]
)
def test_a_half_life_of_any_length_is_told(awd, half):
    search = replace(PUBLISHED, steps=10**12)

    text, _ = decay_effect(NUMEL, search, Anchor(awd=awd, norm="l2"))

    assert f"half-life {half} steps" in text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sigma_that_is_named_moves_most_weights_and_a_smaller_one_does_not(dtype):
    torch.manual_seed(0)
    weights = Weights(nn.Linear(100, 100).to(dtype))

    named = moving_sigma(weights, Member(1), 1e-12)

    assert unmoved_share(weights, Member(1), named) <= UNMOVED
    assert unmoved_share(weights, Member(1), named / 1.6) > UNMOVED
    assert moving_sigma(weights, Member(1), named) == named
