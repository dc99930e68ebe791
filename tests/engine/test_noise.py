"""The noise passes for N(0, 1), and is a pure function of seed, name and element."""

import math
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esft.engine import noise
from esft.engine.noise import MAX_ELEMENTS, MAX_NOISE, derived_seed, random_bits

N = 10_000_000
FEW = 1 << 20


@pytest.fixture(scope="module")
def draws():
    return noise(0, "weight", 0, N)


def correlation(left, right):
    # float32 sums of 10 M products are good to 1e-6, a thousandth of what is looked for.
    return float(torch.dot(left, right)) / left.numel()


def significant(n):
    """Five standard errors of a correlation of n independent pairs of variance 1."""
    return 5 / math.sqrt(n)


def swapped(values, k):
    """The draws at the indices XOR 2**k, and those at the indices, as far as both are there."""
    n = values.numel() >> (k + 1) << (k + 1)
    return values[:n].view(-1, 2, 1 << k).flip(1).reshape(-1), values[:n]


def test_mean_and_variance_are_those_of_the_normal_law(draws):
    mean, variance = float(draws.double().mean()), float(draws.double().var())

    assert abs(mean) <= significant(N)
    assert abs(variance - 1) <= math.sqrt(2) * significant(N)


def test_kurtosis_is_that_of_the_normal_law(draws):
    kurtosis = float(draws.double().pow(4).mean())

    assert abs(kurtosis - 3) <= 0.05


def test_kolmogorov_distance_to_the_normal_law_is_small(draws):
    values, counts = torch.unique(draws, return_counts=True)
    up_to = counts.cumsum(0).double() / N
    below = up_to - counts / N
    normal = torch.special.ndtr(values.double())

    assert max((up_to - normal).abs().max(), (below - normal).abs().max()) <= 0.005


def test_no_draw_is_larger_than_the_bound(monkeypatch):
    extremes = torch.tensor([-1, 0], dtype=torch.int32)  # all bytes 255, all bytes 0
    module = import_module("esft.engine.noise")  # the package's own `noise` is the function
    monkeypatch.setattr(module, "random_bits", lambda *_: extremes)

    highest, lowest = noise(0, "weight", 0, 2).tolist()

    assert highest == -lowest
    assert 0.9999 * MAX_NOISE < highest <= MAX_NOISE


def test_neighbours_are_uncorrelated(draws):
    worst = max(abs(correlation(draws[lag:], draws[:-lag])) for lag in range(1, 65))

    assert worst <= significant(N)


def test_indices_that_differ_in_one_bit_are_uncorrelated(draws):
    for k in range(23):
        left, right = swapped(draws, k)
        assert abs(correlation(left, right)) <= significant(left.numel()), f"bit {k}"


@pytest.mark.parametrize("k", range(20, 32))
def test_far_slices_are_uncorrelated_with_the_first(draws, k):
    far = noise(0, "weight", 1 << k, FEW)

    assert abs(correlation(draws[:FEW], far)) <= significant(FEW)


@pytest.mark.parametrize("seed", [1, 42, -1])
def test_other_seeds_are_uncorrelated_also_with_indices_swapped(draws, seed):
    other = noise(seed, "weight", 0, N)

    assert abs(correlation(draws, other)) <= significant(N)
    for k in range(23):
        left, _ = swapped(other, k)
        right = draws[: left.numel()]
        assert abs(correlation(left, right)) <= significant(left.numel()), f"bit {k}"


@pytest.mark.parametrize("k", range(63))
def test_seeds_that_are_powers_of_two_are_uncorrelated_with_seed_0(draws, k):
    other = noise(1 << k, "weight", 0, FEW)

    assert abs(correlation(draws[:FEW], other)) <= significant(FEW)


@pytest.mark.parametrize("name", ["weight2", "Weight", "model.layers.0.weight", ""])
def test_other_names_are_uncorrelated(draws, name):
    other = noise(0, name, 0, FEW)

    assert abs(correlation(draws[:FEW], other)) <= significant(FEW)


def test_a_seed_and_a_name_do_not_run_into_each_other():
    assert not noise(1, "2:w", 0, 100).equal(noise(12, ":w", 0, 100))
    assert not noise(1, "2:w", 0, 100).equal(noise(1, "w", 0, 100))


@pytest.mark.parametrize("at", [0, 5_000_000, (1 << 31) - 500, MAX_ELEMENTS - 1000])
@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_a_slice_agrees_with_the_whole(at, one, other):
    start, end = sorted((one, other))
    whole = noise(7, "weight", at, 1000)

    part = noise(7, "weight", at + start, end - start)

    assert part.equal(whole[start:end])


def test_the_counter_does_not_wrap_within_its_range():
    ends = [noise(7, "weight", at, 100) for at in (0, (1 << 31) - 100, 1 << 31, (1 << 32) - 100)]

    for i, left in enumerate(ends):
        assert not any(left.equal(right) for right in ends[i + 1 :])


@pytest.mark.parametrize(
    ("start", "count"), [(-1, 5), (0, -1), (MAX_ELEMENTS, 1), (MAX_ELEMENTS - 4, 5)]
)
def test_elements_out_of_range_are_refused(start, count):
    with pytest.raises(ValueError, match=r"elements -?\d+ to \d+, expected 0 to 4294967296|-1"):
        noise(0, "weight", start, count)


def test_the_number_of_threads_changes_no_bit():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = noise(3, "weight", 0, FEW)
        torch.set_num_threads(3)
        three = noise(3, "weight", 0, FEW)
    finally:
        torch.set_num_threads(threads)

    assert one.equal(three)


def test_random_bits_are_balanced():
    bits = random_bits("rounding", 0, "weight", 0, FEW)

    for k in range(32):
        share = float(((bits >> k) & 1).double().mean())
        assert abs(share - 0.5) <= 0.5 * significant(FEW), f"bit {k}"


def test_another_purpose_gives_other_bits():
    assert not random_bits("noise", 0, "w", 0, 64).equal(random_bits("rounding", 0, "w", 0, 64))


def test_derived_seeds_are_distinct_and_have_63_bits():
    seeds = [
        derived_seed("member", run, step, i)
        for run in (0, 1, 42)
        for step in range(30)
        for i in range(30)
    ]

    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert derived_seed("member", 1, 23) != derived_seed("member", 12, 3)
