import math
import random

import numpy as np
import pytest
from simulated_evaluations import answers

from esft.stats.intervals import (
    bootstrap_interval,
    changed_share,
    crossed_interval,
    mean_and_error,
    rows_needed,
    student,
    student_interval,
)


def changed(rows, gained, lost):
    return [1.0] * gained + [-1.0] * lost + [0.0] * (rows - gained - lost)


def resampled(changes, level, times=20_000):
    """The interval by drawing rows, the two added ones among them, again and again."""
    largest = max(map(abs, changes))
    rows = np.array([*changes, largest, -largest])
    draw = np.random.default_rng(0)
    means = np.sort([draw.choice(rows, len(rows)).mean() for _ in range(times)])
    tail = (1 - level) / 2
    return means[int(tail * times)], means[int((1 - tail) * times)]


def coverage(rows, gained, lost, level):
    """The share of evaluations whose interval holds the truth, over all outcomes of `rows` rows.

    `gained` and `lost` are the chances of a row to change; outcomes of less than 1e-7 are left out.
    """
    share = 0.0
    for up in range(rows + 1):
        for down in range(rows + 1 - up if lost else 1):
            ways = math.comb(rows, up) * math.comb(rows - up, down)
            chance = ways * gained**up * lost**down * (1 - gained - lost) ** (rows - up - down)
            if chance > 1e-7:
                interval = bootstrap_interval(changed(rows, up, down), level)
                share += chance * (interval.low <= gained - lost + 1e-12)
                share -= chance * (interval.high < gained - lost - 1e-12)
    return share


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize(
    "changes",
    [
        changed(200, gained=9, lost=17),
        [random.Random(row).gauss(0.02, 0.2) for row in range(150)],
        [0.01] * 100 + [5.0],
    ],
    ids=["right and wrong", "rewards", "one row far out"],
)
def test_the_interval_is_that_of_rows_drawn_again_and_again(changes, level):
    interval = bootstrap_interval(changes, level)

    low, high = resampled(changes, level)
    # 20,000 draws know a quantile to about 2 % of the width; 1 / n is one row.
    tolerance = 0.03 * (high - low) + max(map(abs, changes)) / len(changes)
    assert interval.low == pytest.approx(low, abs=tolerance)
    assert interval.high == pytest.approx(high, abs=tolerance)


@pytest.mark.parametrize(
    ("rows", "gained", "lost"),
    [(100, 0.01, 0), (100, 0.03, 0), (100, 0.15, 0), (50, 0.025, 0.025), (50, 0.03, 0.17)],
)
def test_the_interval_holds_the_truth_where_rows_change_one_way_or_both(rows, gained, lost):
    assert coverage(rows, gained, lost, level=0.95) > 0.938


def test_rows_of_which_none_changed_leave_room_for_rows_that_do():
    few, many = (bootstrap_interval([0.0] * rows) for rows in (100, 10_000))

    assert few.low == -few.high < -0.02
    assert -0.001 < many.low == -many.high < 0


@pytest.mark.parametrize(("level", "end"), [(0.95, 1), (0.9, 2 / 3), (0.7, 1 / 3)])
def test_one_unchanged_row_is_three_draws_of_gained_lost_and_unchanged(level, end):
    interval = bootstrap_interval([0.0], level)

    # Of 27 outcomes one has a sum of 3, three of 2: 3.7 and 14.8 % reach so far on each side.
    assert (interval.low, interval.high) == pytest.approx((-end, end))


@pytest.mark.parametrize(
    "changes",
    [
        changed(20_000, gained=900, lost=1300),
        [random.Random(row).gauss(0.0, 0.05) for row in range(5000)] + [0.5, -0.5],
    ],
    ids=["right and wrong", "rewards"],
)
def test_the_interval_of_many_rows_is_the_normal_one(changes):
    interval = bootstrap_interval(changes)

    mean, error = mean_and_error(changes)
    assert interval.low == pytest.approx(mean - 1.96 * error, abs=0.05 * error)
    assert interval.high == pytest.approx(mean + 1.96 * error, abs=0.05 * error)


def test_changes_too_small_for_the_grid_still_count():
    interval = bootstrap_interval([0.003] * 300 + [1.0, -1.0])

    assert (interval.low + interval.high) / 2 == pytest.approx(0.9 / 304)


def test_losing_mirrors_gaining_and_order_does_not_matter():
    there = bootstrap_interval([0.5, 0.1, 0.0, -0.2] * 10)
    back = bootstrap_interval([-0.1, -0.5, 0.2, 0.0] * 10)

    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)


def test_the_interval_grows_with_the_unit_of_the_rewards():
    changes = [random.Random(row).gauss(0.1, 1) for row in range(60)]

    one, other = bootstrap_interval(changes), bootstrap_interval([7e-3 * c for c in changes])

    assert (other.low, other.high) == pytest.approx((7e-3 * one.low, 7e-3 * one.high))


@pytest.mark.parametrize("changes", [[], [0.0, math.nan], [math.inf]])
def test_no_rows_and_changes_that_are_not_finite_are_refused(changes):
    with pytest.raises(ValueError, match="expected at least one, all of them finite"):
        bootstrap_interval(changes)


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


def test_the_share_that_changed_counts_both_ways_and_is_never_none():
    assert changed_share([1.0] * 30 + [0.0] * 918 + [-1.0] * 50) == pytest.approx(82 / 1000)
    assert changed_share([0.0] * 100) == pytest.approx(2 / 102)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # Tables of Student's t; of one degree of freedom it is the tangent.
    [(1, math.tan(0.475 * math.pi)), (2, 4.302653), (9, 2.262157), (30, 2.042272), (1e4, 1.960201)],
)
def test_quantiles_of_students_t_are_those_of_the_tables(freedom, quantile):
    assert student(0.975, freedom) == pytest.approx(quantile, rel=1e-5)


@pytest.mark.parametrize(("of_seeds", "of_rows"), [(0.0, 0.5), (0.05, 0.0), (0.3, 0.1)])
def test_the_interval_over_seeds_and_rows_holds_the_truth_as_often_as_it_says(of_seeds, of_rows):
    draw, held = np.random.default_rng(0), 0
    for _ in range(400):
        values = draw.normal(0, of_seeds, (3, 1)) + draw.normal(0, of_rows, (1, 60))
        values = values + draw.normal(0, 0.3, (3, 60))
        interval = crossed_interval(values)
        held += interval.low <= 0 <= interval.high

    # At 95 %, 400 draws have 20 outside, +- 4.4; it may be too wide, not too narrow.
    assert held >= 400 - 20 - 3 * 4.4


def test_of_one_seed_the_interval_is_that_over_rows_and_two_that_differ_widen_it():
    rows = np.array(changed(200, 9, 17))

    assert crossed_interval(rows[None]) == bootstrap_interval(rows)
    alike, apart = (crossed_interval(np.array([rows - far, rows + far])) for far in (0.0, 0.1))
    assert alike.low == pytest.approx(bootstrap_interval(rows).low, abs=0.002)
    assert apart.low < -0.9 < 0.9 < apart.high  # of two seeds 0.2 apart: 12.7 standard errors


def test_the_interval_over_seeds_alone_is_students():
    interval = student_interval([0.144, 0.130, 0.150])

    assert (interval.low, interval.high) == pytest.approx((0.1158, 0.1669), abs=1e-4)
