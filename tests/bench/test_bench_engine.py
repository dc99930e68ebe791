"""The engine against the published way: what is timed is what the formulas say."""

import math

import pytest
import torch

from esft.bench import published
from esft.bench.engine import EngineSettings, bench_engine, smollm2_shapes
from esft.bench.timing import Spread
from esft.engine.kernels import chosen_kernels

CPU = torch.device("cpu")


def some_tensors(dtype=torch.float32):
    return [torch.zeros(300, dtype=dtype), torch.ones(7, 11, dtype=dtype)]


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_the_published_noise_is_normal_and_the_same_for_a_seed(seed):
    tensors = [torch.zeros(400, 500), torch.zeros(400, 500)]

    first, second = published.noises(tensors, seed)
    again, _ = published.noises(tensors, seed)
    other, _ = published.noises(tensors, seed + 1)

    assert first.equal(again)
    for one in (first - second, first - other):  # independent, each of variance 1
        assert float(one.var()) == pytest.approx(2, rel=0.03)
    assert abs(float(first.mean())) < 0.01


def test_the_published_way_adds_noise_and_takes_it_away_again():
    tensors = some_tensors()
    noises = list(published.noises(tensors, 5))

    published.perturb_(tensors, 5, 0.1)

    for tensor, start, noise in zip(tensors, some_tensors(), noises, strict=True):
        assert torch.allclose(tensor, start + 0.1 * noise)
    published.perturb_(tensors, 5, -0.1)
    for tensor, start in zip(tensors, some_tensors(), strict=True):
        assert torch.allclose(tensor, start, atol=1e-6)


def test_a_published_update_is_alpha_over_n_times_the_weighted_sum_of_noises():
    tensors, coefficients = some_tensors(), [1.5, -0.5, 0.25]
    noises = [list(published.noises(tensors, seed)) for seed in range(3)]

    published.update_(tensors, range(3), coefficients, 0.3)

    for i, (tensor, start) in enumerate(zip(tensors, some_tensors(), strict=True)):
        total = sum(c * noise[i] for c, noise in zip(coefficients, noises, strict=True))
        assert torch.allclose(tensor, start + 0.3 / 3 * total, atol=1e-6)


def test_the_table_of_shapes_is_smollm2s():
    shapes = smollm2_shapes()

    assert sum(math.prod(shape) for shape in shapes.values()) == 134_515_008
    assert len(shapes) == 272  # the parameters of the checkpoint


@pytest.fixture(scope="module")
def measured():
    return bench_engine(EngineSettings(model="embedded", device="cpu", members=4, rounds=3))


def test_every_pass_is_timed_in_every_way(measured):
    chosen = chosen_kernels(CPU).name

    there = {(one.operation, one.way) for one in measured.passes}
    shared = {"noise", "perturb", "revert", "update"}
    expected = {(operation, way) for operation in shared for way in ("published", "torch", chosen)}
    assert there == expected | {("perturb by log", chosen), ("revert by log", chosen)}
    assert measured.kernels == chosen
    assert measured.elements == 865_792
    assert measured.nbytes == 4 * 865_792


def test_rates_follow_from_seconds_and_bytes(measured):
    for one in measured.passes:
        noises = 4 if one.operation == "update" else 1
        rate = noises * measured.elements / one.seconds.median
        assert one.elements_per_second == pytest.approx(rate)
        assert (one.speedup is None) == (one.way == "published")
        if one.gb_per_second is not None:
            share = one.gb_per_second / measured.copy_gb_per_second.median
            assert one.copy_share == pytest.approx(share)
    rates = {(one.operation, one.way): one.gb_per_second for one in measured.passes}
    seconds = {(one.operation, one.way): one.seconds.median for one in measured.passes}
    # float32 weights and base weights, a float16 drift: read and written once.
    for operation, moved in (("perturb", 10), ("revert", 10), ("update", 12)):
        where = operation, measured.kernels
        expected = moved * measured.elements / seconds[where] / 1e9
        assert rates[where] == pytest.approx(expected)


def test_a_step_is_n_members_and_an_update(measured):
    def bounds(way, *parts):
        times = {one.operation: one.seconds for one in measured.passes if one.way == way}
        return [
            sum(count * getattr(times[operation], end) for operation, count in parts)
            for end in ("low", "high")
        ]

    reverts = {
        "subtract": (("perturb", 4), ("revert", 4), ("update", 1)),
        "restore": (("perturb", 4), ("revert", 1), ("update", 1)),
        "log": (("perturb by log", 4), ("revert by log", 4), ("update", 1)),
    }
    assert {step.revert for step in measured.steps} == set(reverts)
    for step in measured.steps:
        low, high = bounds(step.way, *reverts[step.revert])
        assert low * (1 - 1e-9) <= step.seconds.low <= step.seconds.high <= high * (1 + 1e-9)
    assert isinstance(measured.decay, Spread)
