"""The verdict on two learning curves, by known numbers."""

import numpy as np
import pytest

from esft.stats.plasticity import curve_pair, judge

STEPS = (0, 5, 10)


def right(*shares, rows=500, seeds=3):
    """Scores (seeds, steps, rows) of 0 and 1 with these shares right at STEPS, the same rows first;
    of each seed the rows begin a little later, by which seeds differ."""
    one = [[float(row < share * rows) for row in range(rows)] for share in shares]
    return np.array([np.roll(one, 3 * seed, axis=1) for seed in range(seeds)])


def spread(scores, *more):
    """Scores with so much more at the last step, seed by seed."""
    scores = scores.copy()
    scores[:, -1] += np.array(more)[:, None]
    return scores


LEARNED = right(0.3, 0.4, 0.5)


@pytest.mark.parametrize(
    ("base", "tuned", "kind"),
    [
        (LEARNED, LEARNED, "kept"),
        (LEARNED, right(0.3, 0.4, 0.6), "kept"),
        (LEARNED, right(0.2, 0.3, 0.48), "kept"),  # it had forgotten some, and learns it again
        (LEARNED, right(0.1, 0.2, 0.34), "behind"),
        (LEARNED, right(0.3, 0.32, 0.34), "reduced"),
        (LEARNED, right(0.1, 0.1, 0.1), "reduced"),
        (LEARNED, right(0.4, 0.45, 0.5), "kept"),  # it had less to learn
        (LEARNED, right(0.4, 0.4, 0.4), "reduced"),
        (right(0.3, 0.3, 0.3), right(0.3, 0.3, 0.3), "base learned nothing"),
        (right(0.3, 0.3, 0.32), right(0.3, 0.4, 0.5), "base learned nothing"),
        (right(0.9, 0.9, 0.9), right(0.2, 0.5, 0.9), "base learned nothing"),  # it knows the task
        (right(0.3, 0.4, 0.5, rows=20), right(0.3, 0.4, 0.45, rows=20), "not enough"),
        (LEARNED, spread(right(0.3, 0.4, 0.45), -0.1, 0.0, 0.1), "not enough"),
    ],
)
def test_the_verdict_on_known_numbers(base, tuned, kind):
    assert judge(curve_pair(STEPS, base, tuned), 0.03).kind == kind


def test_curves_that_are_the_same_differ_by_exactly_nothing():
    pair = curve_pair(STEPS, LEARNED, LEARNED)

    assert pair.base == pair.tuned == pytest.approx((0.3, 0.4, 0.5))
    for estimate in (*pair.differences, pair.gain, pair.mean_gain):
        assert estimate.mean == 0
        assert estimate.interval.within(0.03)


def test_gains_are_paired_row_by_row_and_seed_by_seed():
    # The same rows are gained by both, whatever their numbers: only what differs is uncertain.
    both = curve_pair(STEPS, LEARNED, right(0.3, 0.4, 0.49))

    assert both.gain.mean == pytest.approx(-0.01)
    assert both.base_gain.mean == pytest.approx(0.2)
    assert both.tuned_gain.mean == pytest.approx(0.19)
    assert both.mean_gain.mean == pytest.approx(-0.005)
    assert both.gain.interval.high - both.gain.interval.low < 0.02
    apart = both.base_gain.interval
    assert apart.high - apart.low > 0.06


@pytest.mark.parametrize(
    ("tuned", "what"),
    [
        (spread(right(0.3, 0.4, 0.45), -0.1, 0.0, 0.1), "seeds would be"),
        (right(0.3, 0.4, 0.45, rows=500)[:, :, ::-1], "rows would be"),
    ],
)
def test_what_is_missing_is_said(tuned, what):
    verdict = judge(curve_pair(STEPS, LEARNED, tuned), 0.04)

    assert verdict.kind == "not enough"
    assert what in verdict.text


def test_one_that_learns_as_much_but_ends_lower_is_said_to():
    verdict = judge(curve_pair(STEPS, LEARNED, right(0.1, 0.2, 0.34)), 0.03)

    assert "begins -20.0 points" in verdict.text
    assert "ends -16.0 points" in verdict.text


def test_scores_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected both \(seeds, 3, rows\)"):
        curve_pair(STEPS, LEARNED, LEARNED[:2])
    with pytest.raises(ValueError, match="all of them finite"):
        curve_pair(STEPS, LEARNED, spread(LEARNED, np.nan, 0, 0))
