"""A quadratic bowl of known curvatures: how far a run climbs, when it peaks, where it ends.

J(x) = 1 - sum_j h_j x_j^2 / 2. The spread s of the members' rewards is that of the gradient and
of the curvature, s^2 = sigma^2 sum_j h_j^2 x_j^2 + sigma^4 / 2 sum_j h_j^2. Rewards are z-scored,
so a step goes by a = alpha * sigma / s along the gradient, and adds alpha^2 / N to the variance of
every x_j. Where the two are in balance, 1 - J = (a / 4) (sigma^2 / N) d_eff, with d_eff = d / 2
sum_j h_j^2: the law of arXiv:2602.00170, whose learning rate is a, that per gradient, not alpha.
"""

import math

import pytest
import torch
from some_weights import Tensors

from esft.engine import Drift, Weights
from esft.engine.kernels import chosen_kernels
from esft.engine.members import population, shape

SIZE = 64


def climb(curvatures, start, sigma, alpha, steps):
    """Return J after each step of the engine, and the spread of the members' rewards in it."""
    weights = Weights(Tensors(x=start.float().clone()))
    drift = Drift(weights, dtype="float32")
    kernels = chosen_kernels(torch.device("cpu"))
    heights, spreads = [], []
    for step in range(1, steps + 1):
        members = population(0, step, SIZE)
        noises = torch.zeros(SIZE, len(start))
        for row, member in zip(noises, members, strict=True):
            kernels.accumulate(row, "x", 0, [(member.seed, 1.0)])
        moved = (weights.flat("x") + sigma * noises).double()
        rewards = 1 - moved.square() @ curvatures / 2
        drift.step(members, shape(rewards.tolist()), alpha)
        heights.append(1 - float(weights.flat("x").double().square() @ curvatures) / 2)
        spreads.append(float(rewards.std(correction=0)))
    return heights, spreads


def law(curvatures, start, sigma, alpha, steps):
    """Return J after each step by the law: the mean square of each x_j."""
    square, heights = start.double().square(), []
    for _ in range(steps):
        slope, bend = float(curvatures.square() @ square), float(curvatures.square().sum())
        rate = alpha * sigma / math.sqrt(sigma**2 * slope + sigma**4 / 2 * bend)
        square = (1 - rate * curvatures).square() * square + alpha**2 / SIZE
        heights.append(1 - float(curvatures @ square) / 2)
    return heights


def test_a_run_of_fixed_settings_ends_on_the_floor_of_the_law():
    curvatures, sigma, alpha = torch.linspace(0.5, 1.5, 300).double(), 0.1, 0.015
    effective = len(curvatures) / 2 * float(curvatures.square().sum())
    spread = sigma**2 * math.sqrt(float(curvatures.square().sum()) / 2)
    # Begun as spread out as it ends, so that all steps tell of the end.
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(len(curvatures), generator=draw, dtype=torch.float64)
    start *= (alpha * spread / (2 * SIZE * sigma * curvatures)).sqrt()

    heights, spreads = climb(curvatures, start, sigma, alpha, 350)

    rate = alpha * sigma / (sum(spreads) / len(spreads))
    floor = rate / 4 * sigma**2 / SIZE * effective
    assert 1 - sum(heights) / len(heights) == pytest.approx(floor, rel=0.05)


def test_a_run_rises_peaks_and_falls_when_the_law_says():
    # Few directions with something to gain, and many flat ones to get lost in.
    curvatures = torch.cat([torch.full((64,), 1.0), torch.full((2000,), 0.03)]).double()
    start = torch.cat([torch.full((64,), 0.3), torch.zeros(2000)])
    settings = (curvatures, start, 0.05, 0.05, 150)

    heights, _ = climb(*settings)

    expected = law(*settings)
    peak, expected_peak = (max(range(150), key=each.__getitem__) for each in (heights, expected))
    base = 1 - float(start.double().square() @ curvatures) / 2
    assert peak == pytest.approx(expected_peak, rel=0.05)
    assert heights[peak] - base == pytest.approx(expected[expected_peak] - base, rel=0.05)
    assert heights[peak] - heights[-1] > 0.03
    assert 1 - heights[-1] == pytest.approx(1 - expected[-1], rel=0.05)
