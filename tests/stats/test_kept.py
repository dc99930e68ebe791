"""The share of a change that a part of its cause makes, against simulated rows of known shares."""

import math

import numpy as np
import pytest

from esft.stats.kept import kept, kept_of_rows


def some_rows(draw, rows, gain, share, own):
    """Rows (before, whole, part): `gain` of them gained, a `share` of these by the part too, which
    gains and loses `own` of the others."""
    whole = (draw.random(rows) < gain).astype(float)
    part = whole * (draw.random(rows) < share)
    other = draw.random(rows)
    part += (whole == 0) * ((other < own).astype(float) - (other > 1 - own))
    return np.zeros(rows), whole, part


@pytest.mark.parametrize(
    ("rows", "gain", "share", "own"),
    [(100, 0.1, 0.95, 0.0), (100, 0.2, 0.3, 0.04), (300, 0.2, 0.8, 0.01), (300, 0.1, 1.0, 0.02)],
)
def test_the_interval_holds_the_true_share_in_95_percent(rows, gain, share, own):
    draw = np.random.default_rng(rows)

    found = [kept_of_rows(*some_rows(draw, rows, gain, share, own)) for _ in range(600)]

    told = [one for one in found if one is not None]
    assert len(told) > 500
    held = [one.low <= share <= one.high for one in told]
    assert np.mean(held) > 0.95 - 3 * math.sqrt(0.95 * 0.05 / len(told))
    assert np.mean([one.share for one in told]) == pytest.approx(share, abs=0.05)


def test_a_share_is_the_same_in_other_units_and_both_ways():
    before, whole, part = some_rows(np.random.default_rng(1), 200, 0.2, 0.7, 0.01)
    plain = kept_of_rows(before, whole, part)

    scaled = kept_of_rows(3 - 20 * before, 3 - 20 * whole, 3 - 20 * part)

    assert vars(scaled) == pytest.approx(vars(plain))
    assert plain.low < plain.share == part.sum() / whole.sum() < plain.high


def test_of_a_change_within_chance_there_is_no_share():
    nothing, changed = [0.0] * 40, [1.0, -1.0, 1.0, -1.0] + [0.0] * 36

    assert kept_of_rows(nothing, changed, [1.0, *nothing[1:]]) is None
    assert kept_of_rows(nothing, nothing, nothing) is None
    assert kept_of_rows(nothing, [1.0] * 40, [float("nan")] * 40) is None
    assert kept_of_rows(nothing, [1.0] * 20 + nothing[20:], nothing).share == 0
    lost = kept_of_rows(nothing, [-1.0] * 20 + nothing[20:], nothing)
    assert f"{lost.share:.2f}" == "0.00"


def test_rows_that_all_agree_do_not_prove_that_all_would():
    nothing, gained = [0.0] * 100, [1.0] * 10 + [0.0] * 90

    for part, share in ((gained, 1), (nothing, 0)):
        found = kept_of_rows(nothing, gained, part)
        assert found.low < share - 0.1 < share + 0.1 < found.high


def test_the_interval_is_where_the_part_may_be_that_share_of_the_whole():
    """As Fieller has it: the shares r at which part - r * whole is within its errors."""
    whole, part, errors = 2.0, 1.5, np.array([[0.2, 0.05], [0.05, 0.1]])

    found = kept(whole, part, errors)

    for share in (found.low, found.high):
        variance = errors[1, 1] - 2 * share * errors[0, 1] + share**2 * errors[0, 0]
        assert abs(part - share * whole) == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-6)
    assert kept(0.5, 0.5, errors) is None
