"""Pass@k, against every choice of k samples and against simulated models."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from esft.stats.intervals import mean_and_error
from esft.stats.paired import compare
from esft.stats.passes import pass_at_k, pass_rates, sizes


@pytest.mark.parametrize("samples", range(1, 9))
def test_it_is_the_share_of_choices_that_have_a_right_answer(samples):
    for right in range(samples + 1):
        answers = [1] * right + [0] * (samples - right)
        for k in range(1, samples + 1):
            choices = list(combinations(answers, k))
            share = sum(map(max, choices)) / len(choices)
            assert pass_at_k(samples, right, k) == pytest.approx(share, abs=1e-15)


@pytest.mark.parametrize(("samples", "right", "k"), [(10_000, 3, 5_000), (100_000, 40, 99_000)])
def test_large_numbers_neither_overflow_nor_lose_digits(samples, right, k):
    none = Fraction(math.comb(samples - right, k), math.comb(samples, k))

    assert pass_at_k(samples, right, k) == pytest.approx(float(1 - none), rel=1e-12)


def test_all_right_is_1_and_none_right_is_0():
    for samples in (1, 7, 64):
        assert {pass_at_k(samples, samples, k) for k in sizes(samples)} == {1.0}
        assert {pass_at_k(samples, 0, k) for k in sizes(samples)} == {0.0}


@pytest.mark.parametrize("seed", [0, 1, 42])
@pytest.mark.parametrize("k", [1, 4, 10])
def test_its_mean_is_the_chance_that_one_of_k_answers_is_right(seed, k):
    draw, chance, samples, models = np.random.default_rng(seed), 0.15, 10, 20_000
    right = draw.binomial(samples, chance, models)

    mean, error = mean_and_error([pass_at_k(samples, int(one), k) for one in right])

    assert abs(mean - (1 - (1 - chance) ** k)) < 4 * error
    naive = 1 - (1 - right / samples) ** k  # what is often reported, and is too low
    assert k == 1 or (1 - (1 - chance) ** k) - naive.mean() > 10 * error


@pytest.mark.parametrize("of", [(5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 6)])
def test_what_cannot_be_counted_is_refused(of):
    with pytest.raises(ValueError, match="right of 5 samples, and k is"):
        pass_at_k(*of)


def test_k_doubles_up_to_the_number_of_samples():
    assert [sizes(samples) for samples in (1, 2, 3, 8, 10)] == [
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 4, 8),
        (1, 2, 4, 8, 10),
    ]


def test_rates_are_means_over_rows_and_changes_are_paired_by_rows():
    base, now = [4, 0, 2, 3], [4, 1, 0, 1]

    alone, after = pass_rates(4, base), pass_rates(4, now, base)

    assert [rate.k for rate in alone] == [1, 2, 4]
    assert {(rate.change, rate.interval) for rate in alone} == {(None, None)}
    for before, rate in zip(alone, after, strict=True):
        rows = [[pass_at_k(4, one, rate.k) for one in some] for some in (base, now)]
        assert (before.rate, before.se) == mean_and_error(rows[0])
        assert (rate.rate, rate.se) == mean_and_error(rows[1])
        paired = compare(*rows)
        assert (rate.change, rate.change_se) == (paired.difference, paired.se)
        assert rate.interval == paired.interval
    assert after[0].change == pytest.approx(-3 / 16)
    assert after[-1].change == 0.0  # of three rows one is right still
