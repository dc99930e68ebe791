"""The noise passes for N(0, 1), is a pure function of seed, name and element, and is version 1."""

import math
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esft.engine import noise
from esft.engine.noise import MAX_ELEMENTS, MAX_NOISE, NOISE_VERSION, derived_seed, random_bits

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


def test_mean_variance_and_kurtosis_are_those_of_the_normal_law(draws):
    exact = draws.double()

    assert abs(float(exact.mean())) <= significant(N)
    assert abs(float(exact.var()) - 1) <= math.sqrt(2) * significant(N)
    assert abs(float(exact.pow(4).mean()) - 3) <= 0.05


def test_kolmogorov_distance_to_the_normal_law_is_small(draws):
    values, counts = torch.unique(draws, return_counts=True)
    up_to = counts.cumsum(0).double() / N
    below = up_to - counts / N
    normal = torch.special.ndtr(values.double())

    assert max((up_to - normal).abs().max(), (below - normal).abs().max()) <= 0.005


def test_no_draw_is_larger_than_the_bound(monkeypatch):
    extremes = torch.tensor([-1, 0], dtype=torch.int32)  # all bytes 255, all bytes 0
    module = import_module("esft.engine.noise")  # the package's own `noise` is the function
    monkeypatch.setattr(module, "_hashed", lambda *_: extremes[None])

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


@pytest.mark.parametrize("seed", [42, -1])
def test_other_seeds_are_uncorrelated_also_with_indices_swapped(draws, seed):
    other = noise(seed, "weight", 0, N)

    assert abs(correlation(draws, other)) <= significant(N)
    for k in range(23):
        left, _ = swapped(other, k)
        right = draws[: left.numel()]
        assert abs(correlation(left, right)) <= significant(left.numel()), f"bit {k}"


@pytest.mark.parametrize(
    "stream",
    [
        *((0, "weight", 1 << k) for k in range(20, 32)),  # far slices
        *((1 << k, "weight", 0) for k in range(63)),
        *((0, name, 0) for name in ("weight2", "Weight", "model.layers.0.weight", "")),
    ],
    ids=str,
)
def test_far_slices_other_seeds_and_other_names_are_uncorrelated(draws, stream):
    other = noise(*stream, FEW)

    assert abs(correlation(draws[:FEW], other)) <= significant(FEW)


def test_a_purpose_a_seed_and_a_name_do_not_run_into_each_other():
    streams = [("noise", 1, "2:w"), ("noise", 12, ":w"), ("noise", 1, "w"), ("rounding", 1, "w")]

    assert len({tuple(random_bits(*stream, 0, 100).tolist()) for stream in streams}) == 4


@pytest.mark.parametrize("at", [0, 5_000_000, (1 << 31) - 500, MAX_ELEMENTS - 1000])
@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_a_slice_agrees_with_the_whole(at, one, other):
    start, end = sorted((one, other))
    whole = noise(7, "weight", at, 1000)

    part = noise(7, "weight", at + start, end - start)

    assert part.equal(whole[start:end])


@pytest.mark.parametrize(
    ("start", "count"), [(-1, 5), (0, -1), (MAX_ELEMENTS, 1), (MAX_ELEMENTS - 4, 5)]
)
def test_elements_out_of_range_are_refused(start, count):
    with pytest.raises(ValueError, match=r"elements -?\d+ to \d+, expected 0 to 4294967296|-1"):
        noise(0, "weight", start, count)


def test_random_bits_are_balanced():
    bits = random_bits("rounding", 0, "weight", 0, FEW)

    for k in range(32):
        share = float(((bits >> k) & 1).double().mean())
        assert abs(share - 0.5) <= 0.5 * significant(FEW), f"bit {k}"


# Version 1, number by number: a journal that says 1 replays with these.
VECTORS = [  # seed, name, start, float32 bits of four elements of the noise
    (0, "model.embed_tokens.weight", 0, "3f7698a9 bee42b6b 3eaef6e5 3f525582"),
    (1, "model.embed_tokens.weight", 0, "3dd2cf57 3f0cd6d1 bff04f1f be73fc1d"),
    (42, "model.layers.0.mlp.up_proj.weight", 1, "be8dd586 bfa97a21 bf49c601 3f5e5d4e"),
    (-1, "w", 65535, "3ed38381 400e6a19 3f3a6de1 3f6fa612"),
    (1 << 31, "w", (1 << 31) - 2, "bf6c2eab 3f577bb6 3f60166e bf9b0ccf"),
    (1 << 62, "lm_head.weight", (1 << 32) - 4, "3f3f88f5 bfed5c5a bf71623d bf11e014"),
    (0, "", 0, "3f2cdb04 3eb8eba8 3f22b689 3f5aebef"),
    ((1 << 63) - 1, "größe", 10**9, "3f0cd6d1 3f638990 be598e1f bf8f7a20"),
]
BITS = [  # seed, name, start, four elements of the stochastic rounding's random bits
    (0, "model.embed_tokens.weight", 0, "c88764c6 d6bbb065 b4ec5227 681c328a"),
    (42, "model.layers.0.mlp.up_proj.weight", 1, "f67aa6d9 f7b42704 7a413776 3eaa5674"),
    (-1, "w", 65535, "848ce7f2 72345691 90527c9d 2107bbe1"),
    (1 << 62, "lm_head.weight", (1 << 32) - 4, "2ab2809f 2755341c 3016f7d3 a03b0099"),
]


def in_hex(integers):
    return " ".join(f"{integer & 0xFFFFFFFF:08x}" for integer in integers.tolist())


@pytest.mark.parametrize(("seed", "name", "start", "expected"), VECTORS)
def test_the_noise_is_the_recorded_one(seed, name, start, expected):
    drawn = noise(seed, name, start, 4)

    assert in_hex(drawn.view(torch.int32)) == expected


@pytest.mark.parametrize(("seed", "name", "start", "expected"), BITS)
def test_the_random_bits_are_the_recorded_ones(seed, name, start, expected):
    drawn = random_bits("rounding", seed, name, start, 4)

    assert in_hex(drawn) == expected


def test_the_derived_seeds_and_the_version_are_the_recorded_ones():
    assert NOISE_VERSION == 1
    assert derived_seed("member", 0, 1, 0) == 486349902793465004
    assert derived_seed("member", 42, 500, 29) == 7295523163433587190
