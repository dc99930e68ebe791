"""A drift that is replayed is what its formulas say, and owns nothing but the codes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from esft.engine import Weights, perturbed
from esft.engine.coded import CodedLinear
from esft.engine.codes import Quantized
from esft.engine.forecast import Forecast, sum_of_squares
from esft.engine.kernels.reference import whole_steps
from esft.engine.measures import law_of_weights
from esft.engine.members import net_coefficients, population
from esft.engine.replayed import FADES, KEPT_STEPS, ReplayedDrift
from esft.engine.weights import identity

SIGMA, ALPHA = 0.3, 1.5
COEFFICIENTS = [0.5, -1.0, 0.25, 1.0]


def model(low=-8, high=7, rows=24, columns=64):
    draw = torch.Generator().manual_seed(low + 9)
    codes = torch.randint(low, high + 1, (rows, columns), generator=draw).to(torch.int8)
    return nn.Sequential(
        CodedLinear(Quantized(codes, low, high, torch.ones(rows, 1)), None, torch.float32)
    )


def drift_of(module):
    return ReplayedDrift(Weights(module))


def make(drift, first, last, alpha=ALPHA):
    for step in range(first, last + 1):
        drift.step(population(0, step, 4, True), COEFFICIENTS, alpha, sigma=SIGMA)


def transcript(codes, low, high, steps, kept):
    """The codes after some steps, by the formulas: the last `kept` before each are made again."""
    past, base = [], codes
    for step in range(1, steps + 1):
        past.append(population(0, step, 4, True))
        left = torch.zeros_like(codes)
        for members in past[-kept - 1 :]:
            total = torch.zeros_like(codes)
            for member, coefficient in zip(members, COEFFICIENTS, strict=True):
                u = member.sign * whole_steps(
                    member.seed, "0.weight", 0, codes.numel(), SIGMA, "cpu"
                )
                u[(base + u < low) | (base + u > high)] = 0
                total += coefficient * u
            left = FADES * left + total * (ALPHA / 4)
            added = left.round()
            added[(base + added < low) | (base + added > high)] = 0
            left = left - added
        base = base + added
    return base


@pytest.mark.parametrize(("low", "high"), [(-8, 7), (0, 15), (-127, 127)])
def test_codes_are_those_of_a_straight_transcript_of_the_formulas(low, high):
    module = model(low, high)
    drift = drift_of(module)
    expected = transcript(module[0].codes().view(-1).float(), low, high, 60, KEPT_STEPS)

    make(drift, 1, 60)

    assert (KEPT_STEPS, FADES) == (50, 0.9)  # as published
    assert module[0].codes().view(-1).float().equal(expected)
    assert drift.changed > 0


def test_a_state_goes_on_as_the_drift_did_and_members_and_base_leave_no_trace():
    module = model()
    drift, base = drift_of(module), identity(module)
    make(drift, 1, 5)
    state = drift.state()
    state = replace(state, tensors={name: t.clone() for name, t in state.tensors.items()})
    make(drift, 6, 9)
    after, norm = identity(module), drift.norm()

    for member in population(1, 1, 6, True):
        with perturbed(drift.weights, member, SIGMA, drift):
            assert identity(module) != after
        assert identity(module) == after
    with drift.at_base():
        assert identity(module) == base
    assert identity(module) == after
    other = model()
    again = drift_of(other)
    again.load(state)
    make(again, 6, 9)

    assert (identity(other), again.norm()) == (after, norm)


def test_a_decay_and_floats_are_refused():
    with pytest.raises(ValueError, match="expected 0: a replayed drift"):
        drift_of(model()).step([], [], 1.0, 0.1, sigma=SIGMA)
    module = nn.Sequential(*model(), nn.LayerNorm(24))
    with pytest.raises(ValueError, match="of floats, expected codes alone"):
        ReplayedDrift(Weights(module, include=["*"]))


def test_an_update_that_is_no_number_leaves_the_codes_on_their_grid():
    module = model()
    drift, before = drift_of(module), identity(module)

    drift.step(population(0, 1, 4), [3e38] * 4, 1e10, sigma=SIGMA)

    assert identity(module) == before


def test_the_drift_is_as_long_as_forecast():
    module = model(-127, 127, 256, 256)
    drift = drift_of(module)
    law = law_of_weights(drift.weights)
    alpha = 0.5  # updates of less than half a step, most of which land by what is left over
    forecast = Forecast(drift.weights.numel, alpha, law=law, replayed=True)
    make(drift, 1, 20, alpha)
    for step in range(1, 21):
        members = population(0, step, 4, True)
        forecast.step(4, sum_of_squares(net_coefficients(members, COEFFICIENTS)), alpha, SIGMA)

    # 16,384 elements stand for all, and coefficients of a normal law for those here.
    assert drift.norm() == pytest.approx(forecast.norms[-1], rel=0.06)
