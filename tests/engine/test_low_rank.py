"""Noise of low rank: its laws, and the promises of the engine once more with it."""

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from some_weights import (
    FailingWeights,
    Tensors,
    bits_of,
    drift_of,
    dtypes,
    kinds,
    some_model,
    walk,
)

from esft.engine import Drift, Member, Weights, noise, perturbed
from esft.engine.forecast import Forecast
from esft.engine.kernels import Kernels, chosen_kernels
from esft.engine.members import population
from esft.engine.noise import LOW_RANK_VERSION, MAX_NOISE, Factors, drawn

ROWS, COLUMNS = 800, 1200
CPU = torch.device("cpu")
ranks = pytest.mark.parametrize("rank", [1, 4])


def matrix(rank, seed=0, name="weight"):
    return drawn(seed, name, 0, ROWS * COLUMNS, factors=Factors(COLUMNS, rank)).view(ROWS, COLUMNS)


def some_weights(dtype, rank=2, kernels=None):
    return FailingWeights(some_model(dtype), scratch=48 * 256, rank=rank, kernels=kernels)


@ranks
def test_mean_and_variance_are_those_of_full_noise_and_the_rank_is_as_named(rank):
    drawn_once = matrix(rank).double()

    # The variance is that of the rows' times that of the columns', summed over the rank.
    spread = math.sqrt((2 / ROWS + 2 / COLUMNS) / rank)
    assert abs(float(drawn_once.mean())) < 5 / math.sqrt(ROWS * COLUMNS)
    assert abs(float(drawn_once.var()) - 1) < 5 * spread
    assert int(torch.linalg.matrix_rank(drawn_once, rtol=1e-5)) == rank


@ranks
def test_it_is_made_of_noise_of_rows_and_columns(rank):
    left, right = Factors(COLUMNS, rank).vectors(3, "w", 7, 20)
    start, count = 7 * COLUMNS, 20 * COLUMNS

    made = drawn(3, "w", start, count, factors=Factors(COLUMNS, rank)).view(20, COLUMNS)

    assert torch.allclose(made, left.T @ right / math.sqrt(rank), atol=1e-5)
    assert left[rank - 1].equal(noise(3, f"w:{rank - 1}", 7, 20, purpose="left"))
    assert right[rank - 1].equal(noise(3, f"w:{rank - 1}", 0, COLUMNS, purpose="right"))


def test_rows_columns_ranks_seeds_and_names_are_independent():
    many = 1 << 18
    streams = [
        noise(seed, f"{name}:{k}", 0, many, purpose=side)
        for seed in (0, 1)
        for name in ("w", "v")
        for k in (0, 1)
        for side in ("left", "right", "noise")
    ]

    correlations = torch.corrcoef(torch.stack(streams))

    correlations.fill_diagonal_(0)
    assert float(correlations.abs().max()) < 5.5 / math.sqrt(many)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 700), st.integers(1, 3))
def test_a_slice_agrees_with_the_whole(one, other, columns, rank):
    start, end = sorted((one, other))
    whole = drawn(7, "weight", 0, 3000, factors=Factors(columns, rank))

    part = drawn(7, "weight", start, end - start, factors=Factors(columns, rank))

    assert part.equal(whole[start:end])


@ranks
def test_no_value_is_larger_than_the_bound(rank, monkeypatch):
    def extremes(self, *_):
        return tuple(torch.full((self.rank, size), MAX_NOISE) for size in (2, 3))

    monkeypatch.setattr(Factors, "vectors", extremes)

    highest = float(drawn(0, "w", 0, 6, factors=Factors(3, rank)).max())

    assert highest == pytest.approx(Factors(3, rank).largest, rel=1e-6)


def test_the_noise_is_the_recorded_one():
    found = drawn(42, "lm_head.weight", 1233, 4, factors=Factors(576, 2))

    assert LOW_RANK_VERSION == 2
    assert [f"{bits & 0xFFFFFFFF:08x}" for bits in found.view(torch.int32).tolist()] == RECORDED


RECORDED = ["3fad864b", "3e128fd1", "3e110540", "3eeb91ca"]


def test_matrices_and_their_biases_are_tuned_and_nothing_else():
    embedding, head = torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4, bias=False)
    head.weight = embedding.weight  # in two places, once
    layers = embedding, torch.nn.Linear(3, 2), torch.nn.LayerNorm(2), head
    model = torch.nn.Sequential(*layers).requires_grad_(False)

    weights = Weights(model, rank=2)

    assert weights.names == ["0.weight", "1.weight", "1.bias"]
    assert weights.numel == 4 * 3 + 3 * 2 + 2
    assert [weights.factors(name) for name in weights.names] == [Factors(3, 2)] * 2 + [None]
    with pytest.raises(ValueError, match="kernel has 3 dimensions, expected matrices alone"):
        Weights(Tensors(kernel=torch.ones(2, 2, 2), w=torch.ones(2, 2)), rank=1)
    with pytest.raises(ValueError, match="no floating-point parameter is left"):
        Weights(Tensors(norm=torch.ones(4)), rank=1)


@pytest.mark.parametrize("revert", ["log", "restore"])
@dtypes
def test_members_leave_every_bit_however_they_end(dtype, revert):
    drift = Drift(weights := some_weights(dtype))
    walk(drift, steps=2)
    before = bits_of(weights)

    for seed in range(60):
        ending, weights.fails_at = ((None, None), (MemoryError, "proj"), (RuntimeError, None))[
            seed % 3
        ]
        weights.failure = ending("as planned") if weights.fails_at else None
        ends = nullcontext() if ending is None else pytest.raises(ending, match="as planned")
        with ends, perturbed(weights, Member(seed, 1 if seed % 2 else -1), 0.02, drift, revert):
            assert bits_of(weights) != before
            if ending is not None:
                raise ending("as planned")
        assert bits_of(weights) == before, f"member {seed}"


@kinds
@dtypes
def test_every_form_of_the_passes_makes_the_same_members_and_steps(dtype, kept):
    pytest.importorskip("numba")
    drifts = [
        Drift(some_weights(dtype, kernels=kernels), dtype=kept)
        for kernels in (chosen_kernels(CPU), Kernels())
    ]

    for decay in ({}, {"decay": 0.1}, {"decay": 0.01, "norm": "l1"}):
        made = []
        for drift in drifts:
            walk(drift, steps=2, alpha=0.05, **decay)
            with perturbed(drift.weights, Member(5, -1), 0.03, drift):
                made.append(bits_of(drift.weights))
            made.append(bits_of(drift.weights))
        assert made[:2] == made[2:]


@ranks
def test_a_step_is_the_sum_of_the_members_noises(rank):
    drift = Drift(weights := some_weights(torch.float32, rank))
    members, coefficients = population(1, 1, 6, antithetic=True), [2.0, -1.0, 0.5, 0.5, -3.0, 1.0]

    drift.step(members, coefficients, 0.06)

    for name in ("embed", "proj"):
        numel = weights.flat(name).numel()
        total = sum(
            c * m.sign * drawn(m.seed, name, 0, numel, factors=weights.factors(name)).double()
            for m, c in zip(members, coefficients, strict=True)
        )
        assert drift_of(drift, name).double().allclose(0.01 * total, rtol=1e-5, atol=1e-7)


def test_a_step_makes_the_vectors_of_some_rows_at_a_time(monkeypatch):
    drifts = []
    for elements in (1 << 24, 1 << 8):
        monkeypatch.setattr("esft.engine.weights._WITH_VECTORS", elements)
        drifts.append(Drift(weights := some_weights(torch.float32), dtype="int8"))
        sizes = [piece.count for piece in weights.pieces(whole=True) if piece.name == "embed"]
        assert sizes == ([305] if elements > 305 else [256, 49])
        walk(drifts[-1], 3)

    whole, in_parts = (bits_of(drift.weights) for drift in drifts)
    assert whole == in_parts
    assert all(drift_of(drifts[0], name).equal(drift_of(drifts[1], name)) for name in whole)


@pytest.mark.parametrize("seed", range(3))
def test_a_step_of_one_member_fits_into_a_drift_of_16_bits(seed):
    weights = Weights(Tensors(w=torch.zeros(ROWS, COLUMNS)), rank=1)
    drift = Drift(weights, dtype="float16")

    drift.step([Member(seed)], [1.0], 1.0)

    wanted = matrix(1, seed, "w").view(-1)
    assert float(wanted.abs().max()) > 2 * MAX_NOISE  # more than full noise has
    assert drift_of(drift, "w").allclose(wanted, rtol=2e-3, atol=1e-3)


@ranks
def test_a_step_is_prepared_for_the_largest_noise_there_can_be(rank, monkeypatch):
    drift, bounds = Drift(some_weights(torch.float32, rank), dtype="float16"), []
    kept = drift._kept["proj"]
    open_step = kept.open_step
    monkeypatch.setattr(kept, "open_step", lambda most: bounds.append(most) or open_step(most))

    drift.step([Member(1), Member(2)], [2.0, -1.0], 0.1)

    assert bounds == [pytest.approx(0.05 * 3 * Factors(16, rank).largest, rel=1e-4)]


@ranks
def test_the_forecast_of_the_drift_holds_within_a_percent(rank):
    draw = torch.Generator().manual_seed(0)
    weights = Weights(Tensors(w=0.1 * torch.randn(300, 400, generator=draw)), rank=rank)
    drift, forecast = Drift(weights), Forecast(weights.numel, 0.01, 0.2, "l2")

    for step in range(1, 121):
        coefficients = torch.randn(10, generator=draw).tolist()
        drift.step(population(0, step, 10), coefficients, 0.01, 0.2)
        forecast.step(10, sum(c * c for c in coefficients))

    assert drift.norm() == pytest.approx(forecast.norms[-1], rel=0.01)
