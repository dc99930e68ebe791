import re

import pytest

from esft.engine.forecast import forecast_norm
from esft.recipe.settings import Anchor, Search
from esft.tuning.plan import decay_effect

NUMEL = 10**6
PUBLISHED = Search(steps=500, population=30, alpha=5e-4, seed=0)


def test_without_decay_the_free_drift_is_told():
    text, warning = decay_effect(NUMEL, PUBLISHED, Anchor())

    # alpha * sqrt(d * T / N): the random walk of the published settings.
    assert text == "none: the drift is free, ||D|| forecast 2.04 after the last step"
    assert warning is None


def test_the_published_l2_decay_has_a_half_life_of_139_steps():
    text, warning = decay_effect(NUMEL, PUBLISHED, Anchor(awd=10.0, norm="l2"))

    assert "L2, alpha * lambda 0.005 a step, half-life 139 steps" in text
    assert "forecast 0.906 after the last step, 2.04 without" in text
    assert warning is None


def test_the_published_l1_decay_is_told_against_the_random_walk():
    text, warning = decay_effect(NUMEL, PUBLISHED, Anchor(awd=0.01, norm="l1"))

    assert "L1, alpha * lambda 5e-06 a step, against a random-walk step of 9.1e-05" in text
    held = float(re.search(r"forecast ([\d.]+) after", text).group(1))
    assert held == pytest.approx(1.04, rel=0.02)
    assert warning is None


def test_an_l2_decay_of_everything_has_a_half_life_of_a_step():
    text, _ = decay_effect(NUMEL, PUBLISHED, Anchor(awd=2000.0, norm="l2"))

    assert "alpha * lambda 1 a step, half-life 1 step;" in text


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_decay_is_warned_of_just_where_its_forecast_is_within_a_percent_of_none(norm):
    free = forecast_norm(NUMEL, 500, 30, 5e-4)
    warned = {}
    for awd in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        held = forecast_norm(NUMEL, 500, 30, 5e-4, awd, norm)
        _, warning = decay_effect(NUMEL, PUBLISHED, Anchor(awd=awd, norm=norm))
        warned[held >= 0.99 * free] = warning

    assert "does next to nothing within 500 steps" in warned[True]
    assert warned[False] is None
