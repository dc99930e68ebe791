"""The largest changes, against the whole drift sorted, and weights that hold them alone."""

import pytest
import torch
from some_codes import CodedWeights, all_codes, coded_drift, walk_codes
from some_weights import (
    Tensors,
    bits_of,
    both_kernels,
    dtypes,
    kinds,
    some_drift,
    whole_drift,
    with_both_noises,
)

from esft.engine import Drift, Weights
from esft.engine.kernels.reference import composed
from esft.engine.largest import at_largest, largest
from esft.engine.replayed import ReplayedDrift
from esft.errors import AnchorError

PERCENTS = (100, 50, 20, 5, 1e-9)


def streamed(drift):
    """theta_0 and D of all weights, as they are streamed."""
    pieces = list(drift.streamed())
    return tuple(torch.cat([piece[part] for piece in pieces]) for part in (1, 2))


def whole(weights):
    return torch.cat([weights.flat(name) for name in weights.names])


@with_both_noises
@kinds
@dtypes
def test_they_are_those_of_the_whole_drift_sorted(dtype, kept):
    drift = some_drift(dtype, kept)
    sizes = whole_drift(drift).abs().sort(descending=True).values

    found = largest(drift, PERCENTS)

    for one, percent in zip(found, PERCENTS, strict=True):
        count = max(1, round(len(sizes) * percent / 100))
        least = float(sizes[count - 1]) or float(sizes[sizes > 0][-1])
        chosen = sizes[sizes >= least]
        assert one.percent == percent
        assert one.least == least
        assert one.share == len(chosen) / len(sizes)
        assert one.norm == pytest.approx(float(chosen.double().norm()), rel=1e-6)
    assert found[0].norm == pytest.approx(drift.norm(), rel=1e-6)


def test_values_that_differ_in_their_last_bits_alone_are_told_apart():
    weights = Weights(Tensors(w=torch.zeros(1000)))
    drift = Drift(weights)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    drift._kept["w"].parts(0, 1000)[0].copy_(-1 - order * 2.0**-23)

    found = largest(drift, PERCENTS)

    assert [one.share for one in found] == [1, 0.5, 0.2, 0.05, 0.001]
    assert [one.least for one in found] == [1 + n * 2.0**-23 for n in (0, 500, 800, 950, 999)]


def test_ties_are_all_among_them_and_zeros_never():
    weights = Weights(Tensors(w=torch.zeros(10)))
    drift = Drift(weights)
    values = torch.tensor([0.0, 1, -1, 1, 0.5, 0, 0, 2, 0, 0])
    drift._kept["w"].parts(0, 10)[0].copy_(values)

    found = largest(drift, (10, 20, 50, 80, 100))

    assert [one.least for one in found] == [2, 1, 0.5, 0.5, 0.5]
    assert [one.share for one in found] == [0.1, 0.4, 0.5, 0.5, 0.5]
    assert [one.norm**2 for one in found] == pytest.approx([4, 7, 7.25, 7.25, 7.25])


def test_without_a_step_there_are_none():
    (found,) = largest(Drift(Weights(Tensors(w=torch.ones(3)))), [50])

    assert (found.share, found.norm) == (0, 0)


@with_both_noises
@both_kernels
@kinds
@dtypes
def test_weights_hold_them_alone_and_every_bit_comes_back(dtype, kept, kernels):
    drift = some_drift(dtype, kept, kernels=kernels)
    before = bits_of(drift.weights)
    base, values = streamed(drift)
    one, all_of_it = largest(drift, (20, 100))

    with at_largest(drift, one.least):
        held = whole(drift.weights).clone()
    with at_largest(drift, all_of_it.least):
        assert bits_of(drift.weights) == before  # 100 % is the step
    with at_largest(drift, 0.0, 0.25):
        smaller = whole(drift.weights).clone()

    alone = torch.where(values.abs() >= one.least, values, 0)
    assert 0 < int((alone != 0).sum()) < len(alone) / 3
    assert held.view(torch.uint8).equal(composed(base, alone).view(torch.uint8))
    assert smaller.view(torch.uint8).equal(composed(base, 0.25 * values).view(torch.uint8))
    assert bits_of(drift.weights) == before


@pytest.mark.parametrize("kind", ["float32", "int8", "replay"])
def test_of_codes_they_are_the_largest_in_steps_of_the_grid(kind):
    if kind == "replay":
        drift = ReplayedDrift(CodedWeights())
        walk_codes(drift, 8)
    else:
        drift = coded_drift(kind, steps=8)
    before = bits_of(drift.weights)
    now = all_codes(drift.weights).float()
    _, values = streamed(drift)
    with drift.at_base():
        base = all_codes(drift.weights).float()
    (one,) = largest(drift, [10])

    with at_largest(drift, one.least):
        held = all_codes(drift.weights).float()

    chosen = values.abs() >= one.least
    assert held[chosen].equal(now[chosen])
    assert held[~chosen].equal(base[~chosen])
    assert 0 < int((held != base).sum()) < int((now != base).sum())
    assert bits_of(drift.weights) == before


def test_a_drift_that_is_torn_or_held_has_none():
    drift = some_drift(torch.float32)
    held = at_largest(drift, 1.0)
    with held, pytest.raises(ValueError, match="largest while the weights are held by at_largest"):
        largest(drift, [50])
    drift._torn = True

    for refused in (lambda: largest(drift, [50]), lambda: at_largest(drift, 1.0).__enter__()):
        with pytest.raises(AnchorError, match="was not made whole"):
            refused()
