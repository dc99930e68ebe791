"""What a step tries: members of the run's seed, and the noises they share."""

import pytest

from esft.engine import Member
from esft.engine.members import net_coefficients, population


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
