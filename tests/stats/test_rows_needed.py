import random

import pytest
from simulated_evaluations import answers

from esft.stats.intervals import bootstrap_interval
from esft.stats.rows_needed import changed_share, rows_needed


def test_rows_grow_with_the_share_that_changed_and_the_square_of_how_close_one_looks():
    rows = rows_needed(0.1, margin=0.03)

    assert rows_needed(0.2, margin=0.03) == pytest.approx(2 * rows, abs=2)
    assert rows_needed(0.1, margin=0.01) == pytest.approx(9 * rows, abs=9)


def test_with_the_rows_needed_no_change_shows_as_level_nine_times_in_ten():
    disturbance, seeds = 0.3, 150
    many = answers((0.6, 0.6), disturbance, rows=20_000, seed=0)
    rows = rows_needed(changed_share(many[1] - many[0]), margin=0.03)

    level = 0
    for seed in range(1, seeds + 1):
        base, after = answers((0.6, 0.6), disturbance, rows, seed)
        level += bootstrap_interval(after - base).within(0.03)

    # Three standard errors of a share of 0.9 over 150 draws are 0.073.
    assert level / seeds == pytest.approx(0.9, abs=0.073)


def test_the_share_that_changed_is_never_none():
    assert changed_share([0.0] * 100) == pytest.approx(2 / 102)


def test_the_share_that_changed_counts_both_ways():
    changes = [1.0] * 30 + [-1.0] * 50 + [0.0] * 918
    random.Random(0).shuffle(changes)

    assert changed_share(changes) == pytest.approx(82 / 1000)


def test_a_margin_of_nothing_is_refused():
    with pytest.raises(ValueError, match="margin is 0, expected above 0"):
        rows_needed(0.1, margin=0)
