"""What a step tries: members of the run's seed, the noises they share, and their coefficients."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esft.engine import Member
from esft.engine.members import SHAPINGS, net_coefficients, population, shape

# On a grid, so that what is apart is clearly apart.
rewards_lists = st.lists(st.integers(-1000, 1000).map(lambda n: n / 1000), min_size=2, max_size=40)
apart = rewards_lists.filter(lambda rewards: len(set(rewards)) > 1)
shapings = pytest.mark.parametrize("shaping", SHAPINGS)


@pytest.mark.parametrize("sign", [0, 2, -2, 0.5])
def test_a_sign_other_than_plus_or_minus_one_is_refused(sign):
    with pytest.raises(ValueError, match=f"sign is {sign}, expected 1 or -1"):
        Member(1, sign)


@pytest.mark.parametrize("antithetic", [False, True])
def test_a_population_is_the_same_every_time_and_another_for_another_step_or_run(antithetic):
    assert population(0, 1, 30, antithetic) == population(0, 1, 30, antithetic)

    others = [(0, 1), (0, 2), (1, 1), (1, 2), (42, 1)]
    members = [member for at in others for member in population(*at, 30)]
    assert {member.sign for member in members} == {1}
    seeds = [member.seed for member in members]
    assert len(set(seeds)) == 30 * len(others)


def test_an_antithetic_population_is_pairs_side_by_side():
    members = population(0, 1, 30, antithetic=True)

    assert len(members) == 30
    assert len({member.seed for member in members}) == 15
    for plus, minus in zip(members[::2], members[1::2], strict=True):
        assert (plus.seed, plus.sign, minus.sign) == (minus.seed, 1, -1)


def test_an_odd_antithetic_population_is_refused():
    with pytest.raises(ValueError, match="size is 31, expected an even number"):
        population(0, 1, 31, antithetic=True)


def test_a_pair_shares_one_noise_with_the_difference_of_its_coefficients():
    pair = [Member(7, 1), Member(7, -1)]

    assert net_coefficients([*pair, Member(8)], [1.5, -0.25, 2]) == [(7, 1.75), (8, 2.0)]


def test_noises_that_cancel_are_left_out_and_the_others_keep_their_order():
    members = [Member(9), Member(7, 1), Member(7, -1), Member(1), Member(3)]

    assert net_coefficients(members, [1, 0.5, 0.5, 0.0, 2]) == [(9, 1.0), (3, 2.0)]


def test_one_coefficient_too_few_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        net_coefficients([Member(1), Member(2)], [1.0])


@settings(deadline=None)
@given(apart)
def test_z_scores_have_mean_0_and_mean_square_1(rewards):
    coefficients = shape(rewards, "zscore")

    assert math.fsum(coefficients) == pytest.approx(0, abs=1e-9)
    # Below 1 by the 1e-8 that the formula adds to a standard deviation, here at least 1.5e-4.
    mean_square = math.fsum(c * c for c in coefficients) / len(rewards)
    assert mean_square == pytest.approx(1, abs=2e-4)


def test_z_scores_follow_the_formula():
    assert shape([1.0, 2.0, 3.0, 6.0], "zscore") == pytest.approx(
        [(r - 3) / (math.sqrt(3.5) + 1e-8) for r in (1, 2, 3, 6)], rel=1e-12
    )


@settings(deadline=None)
@given(apart)
def test_ranks_lie_in_half_a_unit_around_0_and_sum_to_0(rewards):
    coefficients = shape(rewards, "ranks")

    assert all(-0.5 <= c <= 0.5 for c in coefficients)
    assert math.fsum(coefficients) == pytest.approx(0, abs=1e-12)


def test_ties_share_their_rank():
    assert shape([3.0, 1.0, 1.0, 5.0, 1.0], "ranks") == [0.25, -0.25, -0.25, 0.5, -0.25]
    assert shape([10.0, 30.0, 20.0], "ranks") == [-0.5, 0.5, 0.0]


@shapings
@settings(deadline=None)
@given(apart)
def test_a_better_reward_gets_a_larger_coefficient_and_an_equal_one_the_same(shaping, rewards):
    pairs = sorted(zip(rewards, shape(rewards, shaping), strict=True))

    for (reward, coefficient), (better, larger) in pairwise(pairs):
        assert (better > reward) is (larger > coefficient)


@settings(deadline=None)
@given(apart, st.floats(0.1, 1e3), st.floats(-100, 100))
def test_scale_and_offset_of_the_rewards_do_not_matter(rewards, scale, offset):
    other = [scale * reward + offset for reward in rewards]

    assert shape(other, "zscore") == pytest.approx(shape(rewards, "zscore"), abs=1e-3)
    assert shape([math.exp(reward) for reward in rewards], "ranks") == shape(rewards, "ranks")


@shapings
@pytest.mark.parametrize(
    ("rewards", "antithetic"),
    [
        *(([0.5] * 6, antithetic) for antithetic in (False, True)),
        *(([0.5, math.nan, 0.5, 0.5], antithetic) for antithetic in (False, True)),
        ([0.1 + 0.2, 0.3], False),  # equal but for rounding
        *((few, False) for few in ([], [0.3], [math.nan, 0.5], [math.nan] * 4)),
    ],
    ids=str,
)
def test_equal_rewards_and_fewer_than_two_get_no_coefficient(rewards, antithetic, shaping):
    assert shape(rewards, shaping, antithetic) == [None] * len(rewards)


@shapings
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("antithetic", "at"), [(False, {2}), (True, {2, 3})])
def test_a_reward_that_is_no_number_and_its_partner_get_none_and_do_not_count(
    antithetic, at, bad, shaping
):
    rewards = [1.0, 2.0, 3.0, 5.0, 8.0, 13.0]

    for position in at:
        given = [bad if i == position else reward for i, reward in enumerate(rewards)]
        shaped = shape(given, shaping, antithetic)

        assert {i for i, coefficient in enumerate(shaped) if coefficient is None} == at
        others = [reward for i, reward in enumerate(rewards) if i not in at]
        assert [c for c in shaped if c is not None] == shape(others, shaping)


def test_an_unknown_shaping_and_an_odd_number_of_antithetic_rewards_are_refused():
    with pytest.raises(ValueError, match="shaping is 'softmax', expected one of zscore, ranks"):
        shape([1.0, 2.0], "softmax")
    with pytest.raises(ValueError, match="3 antithetic rewards, expected an even number"):
        shape([0.1, 0.2, 0.3], antithetic=True)
