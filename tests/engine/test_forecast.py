"""The forecast of ||D||: closed for L2, simulated for L1."""

import math
import random

import pytest
import torch

from esft.engine.forecast import Forecast, forecast_norm, forecast_of, sum_of_squares
from esft.engine.journal import Journal, JournalStep
from esft.engine.journal_read import read_journal
from esft.engine.members import expected_squares, net_coefficients, population, shape
from esft.files import append_line

ALPHA, SIZE, STEPS = 5e-4, 30, 500  # the published settings


def closed(numel, squares, pull):
    """Design section 3: d (alpha/N)^2 sum_t S_t (1 - k)^(2 (T - t + 1))."""
    steps = len(squares)
    total = sum(s * (1 - pull) ** (2 * (steps - t)) for t, s in enumerate(squares))
    return math.sqrt(numel) * ALPHA / SIZE * math.sqrt(total)


@pytest.mark.parametrize("decay", [0.0, 1e-300, 1e-9, 1.0, 10.0, 1000.0, 2000.0])
def test_l2_follows_the_closed_formula_and_before_a_run_a_step_counts_with_n_squares(decay):
    squares = [SIZE * (1 + 0.5 * math.sin(t)) for t in range(STEPS)]
    forecast = Forecast(12345, ALPHA, decay, "l2")

    for s in squares:
        forecast.step(SIZE, s)
    before = forecast_norm(12345, STEPS, SIZE, 7.0, ALPHA, decay, "l2")

    assert forecast.norms[-1] == pytest.approx(closed(12345, squares, ALPHA * decay), rel=1e-9)
    assert before == pytest.approx(closed(12345, [7.0] * STEPS, ALPHA * decay), rel=1e-9)


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 1e6), (10.0, 1 / math.sqrt(2 * 5e-3))])
def test_l2_takes_no_time_however_many_steps(decay, expected):
    norm = forecast_norm(1, 10**12, SIZE, SIZE, ALPHA, decay, "l2")

    # 1 / (1 - (1 - k)^2) - 1 steps count at the end, 1 / (2 k) but for terms of k.
    assert norm == pytest.approx(ALPHA / SIZE**0.5 * expected, rel=0.01)


@pytest.mark.parametrize("decay", [0.001, 0.01, 0.1])
def test_l1_follows_the_recursion_of_a_random_walk(decay):
    draw = torch.Generator().manual_seed(0)
    walk = torch.zeros(1 << 17, dtype=torch.float64)
    for _ in range(200):
        walk += ALPHA / SIZE**0.5 * torch.randn(walk.shape, generator=draw).double()
        walk = walk.sign() * (walk.abs() - ALPHA * decay).clamp(min=0)

    # Two simulations of 65,536 and 131,072 elements: 0.3 and 0.2 % a standard error.
    expected = math.sqrt(12345) * float(walk.square().mean().sqrt())
    norm = forecast_norm(12345, 200, SIZE, SIZE, ALPHA, decay, "l1")
    assert norm == pytest.approx(expected, rel=0.01)


def test_no_decay_is_the_same_in_both_norms_and_the_simulation_the_same_every_time():
    run = (100, 50, SIZE, SIZE, ALPHA)
    assert forecast_norm(*run, 0.0, "l1") == forecast_norm(*run)

    one, other = (forecast_norm(*run, 0.01, "l1") for _ in range(2))
    assert one == other


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_step_without_an_update_only_decays(norm):
    forecast = Forecast(100, ALPHA, 0.05, norm)
    forecast.step(SIZE, SIZE)
    before = forecast.norms[-1]

    forecast.step(0, 0.0)

    assert 0 < forecast.norms[-1] < before


@pytest.mark.parametrize(("free", "decay"), [(False, 0.01), (True, 0.0)])
def test_the_forecast_of_a_journal_is_that_of_its_updates(tmp_path, free, decay):
    search = {"seed": 7, "population": 4, "antithetic": True, "alpha": ALPHA, "sigma": 0.1}
    journal = Journal(tmp_path / "journal", "", append_line)
    journal.begin(search | {"awd": 0.01, "norm": "l1"})
    expected = Forecast(100, ALPHA, decay, "l1")
    for step, coefficients in enumerate([(1.0, 0.5, -1.0, -0.5), (math.nan,) * 4], start=1):
        rewards = {"rewards": (0.0,) * 4, "coefficients": coefficients}
        journal.append(JournalStep(step=step, **rewards, rows_at=0, rows_hash=""))
    expected.step(4, 2 * 0.5**2)  # the net coefficients of two pairs
    expected.step(0, 0.0)

    forecast = forecast_of(read_journal(tmp_path / "journal"), 100, free)

    assert forecast.norms == expected.norms
    assert forecast.norms[-1] == forecast.norms[2] > 0


def test_the_forecast_of_an_annealed_journal_takes_the_alpha_of_each_step(tmp_path):
    journal = Journal(tmp_path / "journal", "", append_line)
    header = {"seed": 7, "population": 2, "antithetic": False, "alpha": ALPHA, "anneal": "linear"}
    journal.begin(header | {"awd": 10.0, "norm": "l2"})
    alphas = [ALPHA, ALPHA / 2, ALPHA / 4]
    for step, alpha in enumerate(alphas, start=1):
        values = {"rewards": (0.0, 0.0), "coefficients": (1.0, -1.0)}
        own = {"sigma": 0.1, "alpha": alpha}
        journal.append(JournalStep(step=step, **values, rows_at=0, rows_hash="", own=own))

    forecast = forecast_of(read_journal(tmp_path / "journal"), 100)

    square = 0.0
    for alpha in alphas:
        square = (1 - 10 * alpha) ** 2 * (square + alpha**2 / 2)
    assert forecast.norms[-1] == pytest.approx(10 * math.sqrt(square), rel=1e-9)
    before = forecast_norm(100, 3, 2, 2, ALPHA, 10.0, "l2", lambda step: (0.1, alphas[step - 1]))
    assert before == pytest.approx(forecast.norms[-1], rel=1e-12)


WAVE = [math.sin(i) for i in range(SIZE)]
S = {  # rewards, shaping, antithetic, S and how close
    "z-scores": (WAVE, "zscore", False, SIZE, 1e-6),
    "ranks": (WAVE, "ranks", False, SIZE / 12, 0.1),
    "opposite within pairs": ([1.0, 0.0] * (SIZE // 2), "zscore", True, 2 * SIZE, 1e-6),
    "equal within pairs": ([i // 2 % 2 for i in range(SIZE)], "zscore", True, 0, 1e-6),
}


@pytest.mark.parametrize(
    ("rewards", "shaping", "antithetic", "squares", "within"), S.values(), ids=S
)
def test_s_of_shaped_rewards(rewards, shaping, antithetic, squares, within):
    members = population(0, 1, SIZE, antithetic)

    s = sum_of_squares(net_coefficients(members, shape(rewards, shaping)))

    assert s == pytest.approx(squares, rel=within, abs=1e-9)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("shaping", ["zscore", "ranks"])
@pytest.mark.parametrize("size", [2, 4, 30])
def test_s_without_signal_is_the_one_expected_and_never_above_the_most(size, shaping, antithetic):
    draw, members = random.Random(size), population(0, 1, size, antithetic)

    def squares():
        rewards = shape(draw.sample(range(1000), size), shaping, antithetic)
        return sum_of_squares(net_coefficients(members, rewards))

    drawn = [squares() for _ in range(4000)]

    expected, most = expected_squares(size, shaping, antithetic)
    # S of a step is spread by less than its own size, so 4,000 steps leave 2 % of it, or less.
    assert math.fsum(drawn) / len(drawn) == pytest.approx(expected, rel=0.04)
    assert max(drawn) <= most * (1 + 1e-6)
    assert antithetic or min(drawn) == pytest.approx(expected, rel=1e-6)


def test_a_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match="expected 0 to 1: lower decay"):
        Forecast(100, 0.5, 2.1, "l2")
