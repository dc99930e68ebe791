from collections import Counter

import pytest
from scoring import question_row

from esft.tuning.sampler import RowSampler, rows_hash


def test_without_a_number_every_step_sees_all_rows_in_their_order():
    sampler = RowSampler(7, None, seed=1)

    assert sampler.take(1) == sampler.take(9) == list(range(7))


@pytest.mark.parametrize(("total", "per_step"), [(12, 4), (12, 5), (7, 3), (5, 1)])
@pytest.mark.parametrize("seed", [0, 1, 42])
def test_no_row_comes_twice_within_a_pass(total, per_step, seed):
    sampler = RowSampler(total, per_step, seed)

    dealt = [row for step in range(1, 4 * total + 1) for row in sampler.take(step)]

    for start in range(0, len(dealt) - total + 1, total):
        assert Counter(dealt[start : start + total]) == Counter(range(total))


def test_steps_can_be_dealt_in_any_order():
    forward = [RowSampler(20, 6, seed=3).take(step) for step in range(1, 11)]
    sampler = RowSampler(20, 6, seed=3)

    assert [sampler.take(step) for step in range(10, 0, -1)] == forward[::-1]


def test_seeds_and_passes_deal_in_different_orders():
    orders = {
        tuple(RowSampler(20, 10, seed).take(step)) for seed in (0, 1, 42) for step in (1, 3, 5)
    }

    assert len(orders) == 9


def test_the_position_counts_the_rows_dealt_before_a_step():
    assert [RowSampler(20, 6, 0).position(step) for step in (1, 2, 5)] == [0, 6, 24]


def test_the_hash_of_rows_depends_on_rows_and_order():
    rows = tuple(question_row(number) for number in range(3))

    assert rows_hash(rows) == rows_hash(tuple(question_row(number) for number in range(3)))
    assert rows_hash(rows) != rows_hash(rows[::-1])
    assert rows_hash(rows) != rows_hash(rows[:2])
