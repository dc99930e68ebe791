import math
from itertools import product

import pytest

from esft.stats.intervals import mean_and_error
from esft.stats.paired import compare, compare_rewards, mcnemar


def test_a_comparison_names_the_rows_gained_and_lost():
    paired = compare(before=[1, 0, 1, 0, 1], after=[1, 1, 0, 0, 0])

    assert paired.gained == (1,)
    assert paired.lost == (2, 4)
    assert paired.difference == pytest.approx(-0.2)
    assert paired.interval.low < -0.2 < paired.interval.high


def test_the_error_is_that_of_the_changes_not_of_the_two_means():
    paired = compare([0.0, 0.2, 0.4, 0.6], [0.2, 0.3, 0.5, 0.7])

    assert paired.se == pytest.approx(mean_and_error([0.2, 0.1, 0.1, 0.1])[1])


def test_a_single_row_has_an_interval_but_no_error():
    paired = compare([0], [1])

    assert math.isnan(paired.se)
    assert paired.interval.low <= 0 < paired.interval.high


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (1, 4), (3, 3), (7, 2), (0, 10)])
def test_mcnemar_counts_how_many_ways_of_changing_are_as_uneven(gained, lost):
    ways = [abs(2 * sum(way) - gained - lost) for way in product([0, 1], repeat=gained + lost)]

    as_uneven = sum(uneven >= abs(gained - lost) for uneven in ways) / len(ways)

    assert mcnemar(gained, lost) == pytest.approx(as_uneven)


def test_no_row_changed_is_no_evidence():
    assert mcnemar(0, 0) == 1
    assert compare([1, 0], [1, 0]).p_value == 1


def test_mcnemar_of_many_rows_is_the_normal_test_and_does_not_overflow():
    gained, lost = 10_200, 9_900

    distance = (gained - lost - 1) / math.sqrt(gained + lost)  # with the correction for whole rows
    assert mcnemar(gained, lost) == pytest.approx(math.erfc(distance / math.sqrt(2)), rel=0.01)
    assert mcnemar(20_000, 0) == 0  # below the smallest float


def test_evaluations_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        compare([1, 0, 1], [1, 0])


def test_rewards_are_compared_as_rewards():
    before, after = [(0, 0.25), (1, 1.0), (0, 0.0)], [(0, 0.75), (1, 1.0), (1, 1.0)]

    assert compare_rewards(before, after) == compare([0.25, 1, 0], [0.75, 1, 1])


@pytest.mark.parametrize("after", [[(0, 0.0), (1, 1.0)], [(1, 1.0), (0, math.nan)]])
def test_rewards_that_say_nothing_more_or_overflowed_are_not_compared(after):
    assert compare_rewards([(1, 1.0), (0, 0.0)], after) is None
