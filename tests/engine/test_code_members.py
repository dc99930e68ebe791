"""A member of codes takes the whole steps that stay on the grid, and leaves no trace."""

from contextlib import nullcontext

import pytest
import torch
from some_codes import (
    SIGMAS,
    CodedWeights,
    CodesTranscript,
    all_codes,
    coded_drift,
    codes_of,
    grids,
    model_bits,
    one_layer,
)
from some_weights import bits_of, both_kernels

from esft.engine import Member, perturbed
from esft.engine.kernels import Kernels
from esft.engine.perturb import unmoved_share

ways = pytest.mark.parametrize(
    ("kept", "revert"),
    [("float16", "restore"), ("float32", "log"), (None, "log")],
    ids=["restore", "log with a drift", "log without a drift"],
)
ENDINGS = (  # what is raised, and at which matrix of the perturbing or else in the block
    (None, None),
    (RuntimeError, None),
    (KeyboardInterrupt, None),
    (MemoryError, "odd.weight"),
    (KeyboardInterrupt, "out.weight"),
)


@both_kernels
@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_member_has_the_codes_plus_its_steps_but_for_those_that_leave_the_grid(sigma, kernels):
    drift = coded_drift(kernels=kernels)
    weights, transcript = drift.weights, CodesTranscript(drift.weights)

    for seed, sign in ((0, 1), (1, -1), (2, 1)):
        expected = {
            name: [
                code + step
                for code, step in zip(
                    transcript.codes[name],
                    transcript.applied(name, Member(seed, sign), sigma),
                    strict=True,
                )
            ]
            for name in weights.names
        }
        for revert in ("restore", "log"):
            with perturbed(weights, Member(seed, sign), sigma, drift, revert):
                inside = {name: codes_of(weights, name).tolist() for name in weights.names}
            assert inside == expected

    assert transcript.refused > 0 or sigma == SIGMAS[0]


@ways
def test_a_thousand_members_leave_every_byte_however_they_end(kept, revert):
    drift = None if kept is None else coded_drift(kept)
    model, weights = model_of(drift)
    before = model_bits(model)
    for name in weights.names:  # so that members are refused steps both ways
        codes, grid = codes_of(weights, name), weights.grid(name)
        assert (codes == grid.low).sum() > 5 < (codes == grid.high).sum()

    for i in range(1000):
        end_a_member(i, weights, drift, revert)

        if i % 10 == 9:
            assert model_bits(model) == before, f"one of the ten members up to {i}"


@ways
def test_members_of_the_passes_in_torch_leave_every_byte_however_they_end(kept, revert):
    drift = None if kept is None else coded_drift(kept, kernels=Kernels())
    model, weights = model_of(drift, Kernels())
    before = model_bits(model)

    for i in range(50):  # each ending with each sigma, twice
        end_a_member(i, weights, drift, revert)

        assert model_bits(model) == before, f"member {i}"


def model_of(drift, kernels=None):
    """Return a model and its weights: those of a drift, where there is one, or others."""
    weights = CodedWeights(kernels) if drift is None else drift.weights
    return weights.model, weights


def end_a_member(i, weights, drift, revert):
    """Perturb for member `i`; each sign meets each ending and each sigma."""
    sigma, (ending, weights.fails_at) = SIGMAS[i // 5 % 5], ENDINGS[i % 5]
    ends = nullcontext() if ending is None else pytest.raises(ending, match="as planned")
    weights.failure = ending("as planned") if weights.fails_at else None
    with ends, perturbed(weights, Member(i, 1 if i % 2 else -1), sigma, drift, revert):
        assert weights.fails_at is None, "the perturbing went on"
        if ending is not None:
            raise ending("as planned")


@pytest.mark.parametrize("sigma", [0.1, 2.5])
def test_the_unmoved_share_counts_codes_not_bytes(sigma):
    weights = CodedWeights()
    before, codes = bits_of(weights), all_codes(weights)

    share = unmoved_share(weights, Member(3), sigma)

    assert bits_of(weights) == before
    with perturbed(weights, Member(3), sigma):
        unmoved = int((all_codes(weights) == codes).sum())
    assert share == unmoved / weights.numel > 0


@grids
@both_kernels
def test_the_two_members_of_a_pair_take_opposite_steps(kernels, grid):
    middle = (grid.low + grid.high + 1) // 2
    weights = one_layer(torch.full((30, 40), middle, dtype=torch.int8), grid, kernels)

    steps = {}
    for sign in (1, -1):
        with perturbed(weights, Member(7, sign), sigma=0.9):
            steps[sign] = codes_of(weights, "w.weight") - middle

    assert steps[1].equal(-steps[-1])
    assert {-1, 0, 1} <= set(steps[1].tolist())
