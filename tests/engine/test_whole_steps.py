"""The noise of codes: sigma * noise rounded to whole steps by chance, and how far it carries."""

import math

import pytest
import torch
from some_codes import BYTE, SIGMAS, one_layer, whole_steps_by_formula

from esft.engine import Drift, noise
from esft.engine.forecast import Forecast, Law, forecast_norm, sum_of_squares
from esft.engine.kernels.reference import whole_steps
from esft.engine.members import net_coefficients, population, shape
from esft.engine.noise import MAX_NOISE, whole_steps_square


@pytest.mark.parametrize("seed", [0, 1, 42])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_noise_becomes_one_of_the_two_whole_numbers_around_it_whatever_the_slice(sigma, seed):
    steps = whole_steps(seed, "w", 0, 2000, sigma, "cpu")

    assert steps.equal(steps.round())
    assert ((steps - sigma * noise(seed, "w", 0, 2000)).abs() <= 1).all()
    assert steps.abs().max() <= math.ceil(sigma * MAX_NOISE)
    assert steps[512:1300].equal(whole_steps(seed, "w", 512, 788, sigma, "cpu"))
    assert steps.tolist() == whole_steps_by_formula("w", seed, sigma, 2000)


@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 2.5])
def test_the_mean_of_the_steps_is_sigma_times_the_noise(sigma):
    seeds, size = 200, 2000
    x = torch.stack([sigma * noise(seed, "w", 0, size) for seed in range(seeds)]).double()
    drawn = torch.stack([whole_steps(seed, "w", 0, size, sigma, "cpu") for seed in range(seeds)])
    over = drawn - x  # -1 to 1, of mean 0 and variance f (1 - f) <= 1/4
    fraction = x - x.floor()

    # Five standard errors at most: one of some 2,000 means misses that once in 1,000 times.
    for values in (over, *(over.T)):
        assert abs(float(values.mean())) <= 5 * 0.5 / math.sqrt(values.numel())
    tenths = (fraction * 10).floor()
    for tenth in tenths.unique():  # by the fraction, not only on average over all
        among = over[tenths == tenth]
        assert abs(float(among.mean())) <= 5 * 0.5 / math.sqrt(among.numel())


@pytest.mark.parametrize("sigma", [1e-3, 0.05, 0.3, 0.5, 1.0, 2.5])
def test_the_mean_square_of_drawn_steps_is_the_one_summed_over_their_law(sigma):
    squares = whole_steps(3, "w", 0, 1 << 19, sigma, "cpu").double().square()

    # Four standard errors of the drawn mean, 20 % where one of 1,250 moves; one in 16,000 misses.
    within = 4 * float(squares.std()) / math.sqrt(squares.numel())
    assert abs(float(squares.mean()) - whole_steps_square(sigma)) <= within


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize(
    ("sigma", "decay"),
    [
        (0.1, {}),
        (1.5, {}),
        (0.1, {"decay": 0.05, "norm": "l2"}),
        (1.5, {"decay": 0.05, "norm": "l2"}),
        (1.5, {"decay": 0.03, "norm": "l1"}),
    ],
    ids=str,
)
def test_thirty_steps_without_signal_are_as_long_as_forecast(decay, sigma, antithetic):
    size, alpha, numel = 10, 0.2, 128 * 256
    drift = Drift(one_layer(torch.zeros(128, 256, dtype=torch.int8), BYTE))
    forecast = Forecast(numel, alpha, **decay, law=Law(whole_steps=True))
    rewards = torch.Generator().manual_seed(1)

    for step in range(1, 31):
        members = population(0, step, size, antithetic)
        coefficients = shape(torch.randn(size, generator=rewards).tolist(), "zscore", antithetic)
        drift.step(members, coefficients, alpha, sigma=sigma, **decay)
        squares = sum_of_squares(net_coefficients(members, coefficients))
        forecast.step(size, squares, sigma=sigma)

    # ||D|| of 32,768 elements has a standard error of 0.39 %, somewhat more where an element
    # moves in a few of the steps alone; an L1 forecast, simulated, has one of 0.28 %, and is of
    # normal steps, which those of a small sigma are not.
    assert drift.norm() / forecast.norms[-1] == pytest.approx(1, rel=0.02)


def test_before_a_run_the_closed_forecast_of_codes_is_that_of_its_steps():
    settings = {"decay": 0.05, "norm": "l2", "law": Law(whole_steps=True)}
    forecast = Forecast(1000, 0.2, **settings)
    for _ in range(30):
        forecast.step(10, 7.0, sigma=0.3)

    before = forecast_norm(1000, 30, 10, 7.0, 0.2, **settings, sigma=0.3)

    assert before == pytest.approx(forecast.norms[-1], rel=1e-9)
