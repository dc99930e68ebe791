import random

import pytest
from simulated_evaluations import TRUTHS, counted, wrong_and_open

from esft.stats.series import Series
from esft.stats.verdict import diagnose

ROWS, RIGHT = 2000, 1400


def the_base(rows=ROWS, right=RIGHT):
    return [1.0] * right + [0.0] * (rows - right)


def changed(gained, lost, rows=ROWS, right=RIGHT):
    """The base's answers, with so many of the wrong ones right and of the right ones wrong."""
    base = the_base(rows, right)
    base[:lost] = [0.0] * lost
    base[right : right + gained] = [1.0] * gained
    return base


def later(*changes):
    """Evaluations at steps 10, 20, ... that differ from the base by (gained, lost) rows."""
    return {10 * number: changed(*change) for number, change in enumerate(changes, start=1)}


LEVEL, DOWN, DEEPER, DEEPEST, UP = (40, 40), (20, 220), (20, 340), (20, 460), (180, 20)
SLIGHTLY_DOWN = (20, 80)
"""3 points, not more than the margin, but its interval reaches beyond."""
HARDLY_DOWN = (20, 70)
"""Less than the margin: no drop begins with it."""


@pytest.mark.parametrize(
    ("series", "kind"),
    [
        ([LEVEL, LEVEL, LEVEL, LEVEL], "unchanged"),
        ([UP, LEVEL], "unchanged"),
        ([UP], "improved"),
        ([DOWN, UP], "improved"),
        ([LEVEL, DOWN, LEVEL, LEVEL, LEVEL], "recovered"),
        ([DOWN, DOWN, DOWN, LEVEL], "recovered"),
        ([DOWN, DOWN, DOWN, DOWN], "lost"),
        ([LEVEL, DOWN, DEEPER, DEEPEST, DEEPEST, DEEPEST], "lost"),
        ([DEEPEST, DOWN, DOWN, DOWN], "lost"),
        ([DOWN, DOWN, DEEPER, DEEPEST], "drifting"),
        ([DEEPEST, DEEPEST, DEEPER, DOWN], "drifting"),
    ],
)
def test_a_series_gets_the_verdict_that_its_rows_show(series, kind):
    assert diagnose(the_base(), later(*series)).kind == kind


@pytest.mark.parametrize(
    ("right", "kind"),
    [((30, 15, 12, 0), "lost"), ((30, 15, 12, 1), "down"), ((400, 300, 150, 0), "drifting")],
)
def test_what_has_nothing_left_is_lost_unless_it_fell_fast(right, kind):
    few = [[1.0] * count + [0.0] * (500 - count) for count in right]

    verdict = diagnose([1.0] * 500, dict(enumerate(few, start=1)))

    assert verdict.kind == kind
    assert ("no row is right any more" in verdict.text) == (kind == "lost")


@pytest.mark.parametrize(
    ("series", "kind", "missing"),
    [
        ([DOWN], "down", 3),
        ([LEVEL, DOWN, DOWN], "down", 2),
        ([DOWN, DEEPER, DEEPEST], "down", 1),
        ([HARDLY_DOWN, DOWN, DOWN, DOWN], "down", 1),
        ([LEVEL, DOWN, LEVEL], "recovered", 2),
        ([DOWN, DOWN, DOWN, DOWN, LEVEL, DOWN], "down", 3),
    ],
)
def test_with_fewer_than_three_evaluations_after_a_drop_its_course_is_open(series, kind, missing):
    verdict = diagnose(the_base(), later(*series))

    assert (verdict.kind, verdict.evaluations_needed) == (kind, missing)
    assert verdict.rows_needed is None
    assert f"{missing} more evaluation{'s' * (missing > 1)} would tell" in verdict.text


def test_what_fell_from_all_to_almost_nothing_is_down_however_few_its_evaluations():
    verdict = diagnose([1.0] * 200, {20: [1.0] * 26 + [0.0] * 174})

    assert verdict.kind == "down"
    assert verdict.text.startswith("87.0 points below the base (")
    assert verdict.text.endswith("; falling or settled is open, 3 more evaluations would tell")


@pytest.mark.parametrize("truth", TRUTHS)
def test_simulated_truths_are_found_with_the_rows_that_the_verdict_asks_for(truth):
    kinds, _ = counted(truth, 100, random.Random(truth))

    wrong, left_open = wrong_and_open(truth, kinds)
    assert wrong <= 5
    assert left_open <= 20


def test_few_rows_ask_for_as_many_as_the_changed_ones_make_necessary():
    few, many_changed = (
        diagnose(the_base(200, 140), {10: changed(count, count, 200, 140)}) for count in (5, 20)
    )

    assert few.kind == many_changed.kind == "not enough"
    assert few.evaluations_needed is None
    assert 200 < few.rows_needed < many_changed.rows_needed
    assert f"200 rows are not enough to tell, about {few.rows_needed} would be" in few.text


@pytest.mark.parametrize("rows", [2000, 20_000])
def test_where_rows_were_enough_but_the_change_is_near_the_margin_twice_as_many_are_asked(rows):
    near = changed(rows // 400, rows // 400 + 3 * rows // 100, rows, rows // 2)

    verdict = diagnose(the_base(rows, rows // 2), {1: near})

    assert verdict.kind == "not enough"
    assert verdict.rows_needed >= 2 * rows


def test_rows_are_asked_for_once_for_the_drop_and_for_its_movement():
    base = the_base(200, 140)
    quiet, flipping = changed(2, 10, 200, 140), changed(40, 48, 200, 140)

    verdicts = [
        diagnose(base, dict(enumerate(series)))
        for series in ([quiet] * 4, [quiet, flipping, quiet, quiet])
    ]

    assert [verdict.kind for verdict in verdicts] == ["not enough", "not enough"]
    assert verdicts[1].rows_needed > 3 * verdicts[0].rows_needed


def test_a_drop_whose_movement_is_unclear_asks_for_rows_not_for_evaluations():
    base = the_base(200, 140)
    series = [changed(*rows, 200, 140) for rows in ((5, 30), (5, 30), (8, 34), (10, 34))]

    verdict = diagnose(base, dict(enumerate(series)))

    assert (verdict.kind, verdict.evaluations_needed) == ("down", None)
    assert verdict.rows_needed > 200
    assert "; falling or settled is open: " in verdict.text


def test_each_evaluation_more_makes_a_change_harder_to_claim():
    slight = changed(3, 15, 200, 140)
    quiet = the_base(200, 140)

    alone = Series(quiet, {1: slight}, margin=0.03).changes[-1]
    one_of_twenty = Series(quiet, dict.fromkeys(range(20), slight), margin=0.03).changes[-1]

    assert alone.is_down
    assert not one_of_twenty.is_down
    assert alone.interval == one_of_twenty.interval


@pytest.mark.parametrize(("margin", "kind"), [(0.03, "not enough"), (0.06, "unchanged")])
def test_a_wider_margin_calls_more_unchanged(margin, kind):
    assert diagnose(the_base(), later(SLIGHTLY_DOWN), margin).kind == kind


def test_steps_are_taken_in_their_order_not_in_that_of_the_mapping():
    in_order = later(DOWN, DOWN, DEEPER, DEEPEST)

    assert diagnose(the_base(), dict(reversed(in_order.items()))) == diagnose(the_base(), in_order)


def test_the_text_says_how_far_since_when_and_how_it_moves():
    lost = diagnose(the_base(), later(LEVEL, DOWN, DEEPER, DEEPER, DEEPER))
    rising = diagnose(the_base(), later(DEEPEST, DEEPEST, DEEPER, DOWN))
    recovered = diagnose(the_base(), later(LEVEL, DEEPER, DOWN, LEVEL, LEVEL))

    assert lost.text.startswith("16.0 points below the base (")
    assert "down since step 20 and settled: +0.0 points" in lost.text
    assert "coming back: +12.0 points" in rising.text
    assert "from step 20 to 40" in rising.text
    assert "was down 16.0 points at step 20, now +0.0 (" in recovered.text


def test_the_movement_of_three_evaluations_is_the_last_minus_the_first():
    series = Series(the_base(), later(LEVEL, DOWN, DEEPER), margin=0.03)

    assert series.movement(range(3)).difference == pytest.approx(-320 / ROWS)


def test_the_movement_of_a_straight_line_is_its_rise_whatever_the_length():
    series = Series(the_base(), later(*((0, 50 * number) for number in range(7))), margin=0.03)

    for first in range(5):
        rise = series.movement(range(first, 7)).difference
        assert rise == pytest.approx(-50 * (6 - first) / ROWS)


def test_after_a_long_drop_the_later_half_of_the_evaluations_tells_whether_it_moves():
    series = Series(the_base(), later(*((0, 160 + 40 * n) for n in range(11))), margin=0.03)

    first, _ = series.drop()

    assert series.settling(first) == range(6, 11)


def test_rewards_are_judged_like_answers():
    draw = random.Random(0)
    base = [draw.random() for _ in range(400)]
    lower = [reward * 0.8 for reward in base]

    assert diagnose(base, dict.fromkeys(range(1, 5), lower)).kind == "lost"
    assert diagnose(base, {1: base}).kind == "unchanged"


@pytest.mark.parametrize(
    ("base", "series", "margin", "message"),
    [
        ([1, 0], {}, 0.03, "no evaluation after the base"),
        ([1, 0], {5: [1, 0, 1]}, 0.03, "step 5: 3 rows, expected 2"),
        ([], {5: []}, 0.03, "expected at least one"),
        ([1, 0], {5: [1, float("nan")]}, 0.03, "finite"),
        ([0] * 50, {5: [1] * 50}, 0.0, "margin is 0, expected above 0"),
    ],
)
def test_what_cannot_be_judged_is_refused(base, series, margin, message):
    with pytest.raises(ValueError, match=message):
        diagnose(base, series, margin)
