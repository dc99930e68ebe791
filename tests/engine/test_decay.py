"""The decay pulls by its formula, and a drift that it has brought to 0 leaves the base."""

from itertools import count

import pytest
import torch
from some_weights import (
    DTYPES,
    Tensors,
    bits_of,
    drift_of,
    dtypes,
    kinds,
    some_drift,
    some_weights,
    with_both_noises,
)

from esft.engine import Drift, Member, Weights

ALPHA = 0.5
# The smaller pulls take thousands of steps; D does not depend on the dtype of the weights.
PULLS = [
    (1e-4, torch.bfloat16),
    (1e-3, torch.float16),
    *((pull, dtype) for pull in (1e-2, 1e-1) for dtype in DTYPES),
]
norms = pytest.mark.parametrize("norm", ["l1", "l2"])


@norms
@kinds
@pytest.mark.parametrize(("pull", "dtype"), PULLS, ids=str)
def test_l2_shrinks_every_element_by_its_share_and_l1_by_as_much(pull, dtype, kept, norm):
    draw = torch.Generator().manual_seed(0)
    weights = Weights(Tensors(w=torch.randn(4096, generator=draw).to(dtype)))
    drift = Drift(weights, dtype=kept)
    drift.step([Member(1)], [1.0], alpha=1.0)  # D is about N(0, 1)
    start = drift_of(drift, "w").double()

    def after(steps):
        if norm == "l2":
            return start * (1 - pull) ** steps
        return torch.copysign((start.abs() - steps * pull).clamp(min=0), start)

    steps = next(steps for steps in count(1) if after(steps).norm() <= 0.7 * start.norm())
    for _ in range(steps):
        drift.step([], [], ALPHA, decay=pull / ALPHA, norm=norm)

    # L2 in float32: thousands of roundings of 2**-24 that do not lean to one side; so with the
    # scales of int8, of which a few make up the norm. L1 in float32: each step rounds an element
    # by up to 2**-24 of it, and between two powers of two always by the same amount, since the
    # pull is; twice, since the norm shrinks. int8 rounds once, where it takes off what all
    # the steps have pulled.
    within = {
        "float32": 2e-6 if norm == "l2" else 2 * steps * 2**-24,
        "float16": 3e-3,
        "int8": 1e-5 if norm == "l2" else 2**-20,
    }[kept]
    now, expected = drift_of(drift, "w").double(), after(steps)
    assert drift.norm() == pytest.approx(float(expected.norm()), rel=within)
    assert drift.norm() == pytest.approx(float(now.norm()), rel=1e-12)
    if kept != "float16":  # which rounds each element by chance
        assert float((now - expected).norm() / expected.norm()) <= within


@with_both_noises
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


@with_both_noises
@pytest.mark.parametrize(("pull", "norm"), [(1.0, "l2"), (1e3, "l1")])
@kinds
@dtypes
def test_a_drift_that_has_decayed_to_zero_leaves_the_bits_of_the_base(dtype, kept, pull, norm):
    drift = some_drift(dtype, kept, steps=3)
    weights = drift.weights
    base = bits_of(some_weights(dtype))
    assert bits_of(weights) != base

    drift.step([], [], 1.0, decay=pull, norm=norm)

    assert bits_of(weights) == base
