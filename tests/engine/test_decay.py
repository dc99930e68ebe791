"""The decay pulls by its formula, and leaves a base that nothing has moved alone."""

import pytest
import torch
from some_weights import DRIFT_DTYPES, DTYPES, Tensors, bits_of, drift_of, some_drift, some_weights

from esft.engine import Drift, Member, Weights
from esft.engine.anchor import decay_, pull_of

ALPHA = 0.5
# The smaller pulls take thousands of steps; D does not depend on the dtype of the weights.
PULLS = [
    (1e-4, torch.bfloat16),
    (1e-3, torch.float16),
    *((pull, dtype) for pull in (1e-2, 1e-1) for dtype in DTYPES),
]
pulls = pytest.mark.parametrize(("pull", "dtype"), PULLS, ids=str)


@pytest.mark.parametrize("kept", DRIFT_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_rewards_without_a_decay_change_no_bit_anywhere(dtype, kept):
    drift = some_drift(dtype, kept, steps=3)
    weights = drift.weights
    before, norm = bits_of(weights), drift.norm()

    drift.step([], [], ALPHA)

    assert bits_of(weights) == before
    assert drift.norm() == norm > 0


@pulls
@pytest.mark.parametrize("kept", DRIFT_DTYPES)
def test_l2_shrinks_every_element_by_its_share(kept, pull, dtype):
    drift, start = moved_drift(kept, dtype)
    steps = steps_to_halve(start, lambda s: start * (1 - pull) ** s)

    for _ in range(steps):
        drift.step([], [], ALPHA, decay=pull / ALPHA)

    expected = start * (1 - pull) ** steps
    # float32: thousands of roundings of 2**-24 that do not lean to one side; so with the scales
    # of int8, of which a few make up the norm.
    norm_within, vector_within = {
        "float32": (1e-6, 2e-6),
        "float16": (3e-3, None),
        "int8": (1e-5, 1e-5),
    }[kept]
    assert_shrunk(drift, expected, norm_within, vector_within)


@pulls
@pytest.mark.parametrize("kept", DRIFT_DTYPES)
def test_l1_shrinks_every_element_by_as_much(kept, pull, dtype):
    drift, start = moved_drift(kept, dtype)

    def after(steps):
        return torch.copysign((start.abs() - steps * pull).clamp(min=0), start)

    steps = steps_to_halve(start, after)
    for _ in range(steps):
        drift.step([], [], ALPHA, decay=pull / ALPHA, norm="l1")

    # float32: each step rounds an element by up to 2**-24 of it, and between two powers of two
    # always by the same amount, since the pull is; twice, since half the norm is left. int8
    # rounds once, where it takes off what all the steps have pulled.
    rounding = 2 * steps * 2**-24
    norm_within, vector_within = {
        "float32": (rounding, rounding),
        "float16": (3e-3, None),
        "int8": (2**-20, 2**-20),
    }[kept]
    assert_shrunk(drift, after(steps), norm_within, vector_within)


def moved_drift(kept, dtype):
    """A Drift with D of about N(0, 1), and that D in float64."""
    draw = torch.Generator().manual_seed(0)
    weights = Weights(Tensors(w=torch.randn(4096, generator=draw).to(dtype)))
    drift = Drift(weights, dtype=kept)
    drift.step([Member(1)], [1.0], alpha=1.0)
    return drift, drift_of(drift, "w").double()


def steps_to_halve(start, after):
    steps = 1
    while after(steps).norm() > start.norm() / 2:
        steps += 1
    return steps


def assert_shrunk(drift, expected, norm_within, vector_within):
    now = drift_of(drift, "w").double()
    assert drift.norm() == pytest.approx(float(expected.norm()), rel=norm_within)
    assert drift.norm() == pytest.approx(float(now.norm()), rel=1e-12)
    if vector_within is not None:
        assert float((now - expected).norm() / expected.norm()) <= vector_within


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_decay_on_its_own_moves_no_element_across_zero(norm):
    drift = torch.tensor([-5.0, -1e-3, -0.0, 0.0, 1e-3, 5.0])

    for _ in range(30):
        decay_(drift, 0.1, norm)

    assert (drift * torch.tensor([-1.0, -1.0, 0.0, 0.0, 1.0, 1.0]) >= 0).all()
    assert 0.1 < drift.abs().max() < 3


def test_l2_with_a_pull_of_one_lands_on_the_anchor():
    drift = torch.tensor([-3.0, 0.1, 7.0])

    decay_(drift, pull_of(0.5, 2.0, "l2"), "l2")

    assert drift.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("alpha", "decay", "norm", "message"),
    [
        (0.5, 2.1, "l2", r"alpha \* decay is 1.05, expected 0 to 1: lower decay"),
        (0.5, -0.1, "l2", r"alpha \* decay is -0.05, expected 0 or more"),
        (0.5, -0.1, "l1", r"alpha \* decay is -0.05, expected 0 or more"),
        (0.5, float("nan"), "l1", r"alpha \* decay is nan"),
        (0.5, float("inf"), "l1", r"alpha \* decay is inf"),
        (0.5, 0.1, "linf", "norm is 'linf', expected 'l1' or 'l2'"),
    ],
)
def test_a_decay_out_of_range_is_refused_and_nothing_moves(alpha, decay, norm, message):
    drift = some_drift(torch.float32, "float32")
    weights = drift.weights
    before = bits_of(weights)

    with pytest.raises(ValueError, match=message):
        drift.step([Member(1)], [1.0], alpha, decay, norm)

    assert bits_of(weights) == before


@pytest.mark.parametrize(("pull", "norm"), [(1.0, "l2"), (1e3, "l1")])
@pytest.mark.parametrize("kept", DRIFT_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_drift_that_has_decayed_to_zero_leaves_the_bits_of_the_base(dtype, kept, pull, norm):
    drift = some_drift(dtype, kept, steps=3)
    weights = drift.weights
    base = bits_of(some_weights(dtype))
    assert bits_of(weights) != base

    drift.step([], [], 1.0, decay=pull, norm=norm)

    assert bits_of(weights) == base
