import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from esft.stats.knowing import Knowing, knowing_changes, knowing_figures, knowing_kept

Z = NormalDist().inv_cdf


def rows(*counts, p=None):
    """Rows of (right, claim, how many)."""
    return [
        (right, Knowing(claim=claim, substring=right, words=right, p_yes=p))
        for right, claim, count in counts
        for _ in range(count)
    ]


def with_p(*pairs):
    return [
        (right, replace(one, p_yes=p))
        for right, p in pairs
        for _, one in rows((right, "yes" if p > 0.5 else "no", 1))
    ]


def values(rows):
    measures = knowing_figures(rows).measures
    return {name: measure.value for name, measure in measures.items()}


def drawn(count, accuracy, hits, alarms, seed):
    """Simulated answers: right and yes with these chances."""
    chances = np.random.default_rng(seed).random((count, 2))
    made = []
    for right, yes in chances:
        right = bool(right < accuracy)
        claim = "yes" if yes < (hits if right else alarms) else "no"
        made.append((right, Knowing(claim=claim, substring=right, words=right)))
    return made


def test_measures_are_those_of_a_table_worked_out_by_hand():
    # 10 right: 6 yes, 3 no, 1 unclear; 20 wrong: 5 yes, 13 no, 2 unclear.
    table = rows(
        (True, "yes", 6), (True, "no", 3), (True, "unclear", 1),
        (False, "yes", 5), (False, "no", 13), (False, "unclear", 2),
    )  # fmt: skip

    measures = values(table)

    assert measures == {
        "accuracy": pytest.approx(10 / 30),
        "accuracy_substring": pytest.approx(10 / 30),
        "accuracy_words": pytest.approx(10 / 30),
        "yes": pytest.approx(11 / 30),
        "unclear": pytest.approx(3 / 30),
        "hit_rate": pytest.approx(0.6),
        "false_alarm_rate": pytest.approx(0.25),
        "d_prime": pytest.approx(0.2533471 + 0.6744898),  # z(0.6) - z(0.25), by a printed table
        "alignment": pytest.approx(19 / 30),
        "yes_failure": pytest.approx(5 / 11),
        "no_failure": pytest.approx(3 / 16),
    }


def test_rates_of_one_and_nought_are_clipped():
    measures = values(rows((True, "yes", 3), (False, "no", 4)))

    assert measures["d_prime"] == pytest.approx(2 * 3.7190165, abs=1e-6)  # 2 z(0.9999)
    assert (measures["hit_rate"], measures["false_alarm_rate"]) == (1, 0)


@pytest.mark.parametrize("right", [True, False])
def test_a_class_without_rows_has_no_rate_and_it_is_said(right):
    figures = knowing_figures(rows((right, "yes", 5), (right, "no", 4)))

    lacking = "false_alarm_rate" if right else "hit_rate"
    missing = [figures.measures[name] for name in (lacking, "d_prime")] + [figures.chance]
    assert all((one.value, one.low, one.se) == (None, None, None) for one in missing)
    assert f"no row is {'wrong' if right else 'right'}, so that there is no d'" in figures.notes


def test_claims_that_no_row_has_have_no_failures():
    measures = values(rows((True, "no", 3), (False, "no", 3)))

    assert (measures["yes_failure"], measures["no_failure"]) == (None, 0.5)


def test_auroc_and_calibration_are_those_worked_out_by_hand():
    # Right at p 0.9, 0.6, 0.3; wrong at 0.6, 0.1: of six pairs 4 are in order, one is a tie.
    # Bins: 0.9 off 0.1; 0.6 twice, one right: off 0.1 * 2; 0.3 off 0.7; 0.1 off 0.1; over 5 rows.
    table = with_p((True, 0.9), (True, 0.6), (True, 0.3), (False, 0.6), (False, 0.1))

    measures = values(table)

    assert measures["auroc"] == pytest.approx(4.5 / 6)
    assert measures["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.7 + 0.1) / 5)


def test_where_not_all_rows_have_p_there_is_no_measure_of_it():
    table = [*with_p((True, 0.9), (False, 0.2)), *rows((True, "yes", 1))]

    assert not {"auroc", "calibration_error"} & values(table).keys()


def test_the_interval_of_d_prime_holds_the_truth_in_about_95_of_100_simulations():
    truth = Z(0.7) - Z(0.3)

    intervals = [
        knowing_figures(drawn(200, 0.5, 0.7, 0.3, seed)).measures["d_prime"] for seed in range(1000)
    ]

    held = sum(one.low <= truth <= one.high for one in intervals) / len(intervals)
    # 0.94 measured (0.949 at accuracy 0.3, H 0.9, F 0.2; 0.941 at 0.1, 0.5, 0.2 of 300 rows); the
    # deviation of such a share is 0.007.
    assert 0.925 <= held <= 0.97


def test_ten_of_ten_do_not_prove_always():
    measure = knowing_figures(rows((True, "yes", 10), (False, "no", 200))).measures["hit_rate"]

    assert measure.value == measure.high == 1
    assert measure.low < 0.9


def test_shuffled_claims_have_no_d_prime():
    figures = knowing_figures(drawn(400, 0.4, 0.8, 0.2, seed=3))

    assert figures.measures["d_prime"].low > 1
    assert abs(figures.chance.value) < 0.02
    assert figures.chance.low < 0 < figures.chance.high < 0.5


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ((99, 1, 0), "it says Yes to nearly everything (99.0% Yes)"),
        ((1, 99, 0), "it says No to nearly everything (1.0% Yes)"),
        ((0, 30, 70), "it says neither Yes nor No to nearly everything (0.0% Yes)"),
        ((98, 2, 0), None),
        ((2, 98, 0), None),
    ],
)
def test_a_collapse_is_said(claims, words):
    table = [
        (number % 2 == 0, one)
        for number, (_, one) in enumerate(
            rows(*zip((True,) * 3, ("yes", "no", "unclear"), claims, strict=True))
        )
    ]

    notes = knowing_figures(table).notes

    assert [note.partition(":")[0] for note in notes] == ([] if words is None else [words])


def test_the_same_rows_and_seed_give_the_same_bits_in_any_order():
    table = drawn(50, 0.5, 0.7, 0.3, seed=1)

    assert knowing_figures(table) == knowing_figures(table[::-1])
    assert knowing_figures(table) != knowing_figures(table, seed=1)


def test_changes_are_paired_by_rows():
    before = drawn(300, 0.4, 0.6, 0.4, seed=1)
    after = [(right, replace(one, claim="yes" if right else "no")) for right, one in before]

    changes = knowing_changes(before, after)

    alone = [knowing_figures(one).measures for one in (before, after)]
    for name, change in changes.items():
        assert change.value == pytest.approx(alone[1][name].value - alone[0][name].value)
        assert change.low <= change.value <= change.high
    assert changes["accuracy"].value == 0
    # The same rows are right before and after: far less error than of two sets of rows.
    apart = math.hypot(alone[0]["accuracy"].se, alone[1]["accuracy"].se)
    assert 0 < changes["accuracy"].se < apart / 4
    assert changes["d_prime"].low > 0


def test_a_change_of_none_is_not_known_for_sure():
    table = drawn(40, 0.5, 0.7, 0.3, seed=1)

    changes = knowing_changes(table, table)

    for name in ("accuracy", "yes", "alignment", "hit_rate", "d_prime"):
        assert changes[name].low < 0 < changes[name].high


def test_the_share_of_a_change_in_d_prime_is_that_of_its_values_with_an_interval():
    def told(hits, alarms):
        return rows(
            (True, "yes", hits), (True, "no", 100 - hits),
            (False, "yes", alarms), (False, "no", 100 - alarms),
        )  # fmt: skip

    before, whole, part = told(50, 50), told(90, 20), told(75, 30)

    kept = knowing_kept(before, whole, part)

    d = [values(one)["d_prime"] for one in (before, whole, part)]
    assert kept.share == pytest.approx((d[2] - d[0]) / (d[1] - d[0]))
    assert 0.2 < kept.low < kept.share < kept.high < 1.2
    assert knowing_kept(before, whole, whole).share == 1
    assert knowing_kept(before, told(51, 49), whole) is None  # a change within chance
    assert (
        knowing_kept(rows((True, "yes", 9)), rows((True, "no", 9)), rows((True, "no", 9))) is None
    )


def test_the_interval_of_a_share_in_d_prime_holds_the_truth():
    draw, cases, held = np.random.default_rng(0), 120, 0
    rates = [np.array([0.6, 0.5]), np.array([0.8, 0.3])]  # hits and alarms, before and after
    of_d = [Z(hits) - Z(alarms) for hits, alarms in (*rates, sum(rates) / 2)]
    truth = (of_d[2] - of_d[0]) / (of_d[1] - of_d[0])

    for _ in range(cases):
        right, same, half = (draw.random(200) for _ in range(3))
        right = right < 0.4
        before, whole = (same < np.where(right, *each) for each in rates)
        claims = before, whole, np.where(half < 0.5, whole, before)
        models = (
            rows(*((bool(r), "yes" if y else "no", 1) for r, y in zip(right, yes, strict=True)))
            for yes in claims
        )
        kept = knowing_kept(*models)
        held += kept.low <= truth <= kept.high

    assert held / cases > 0.89  # 0.95 but three errors of so many cases


def test_a_part_like_one_of_the_models_is_near_it_and_not_for_sure():
    def told(hits, alarms):
        return rows(
            (True, "yes", hits), (True, "no", 100 - hits),
            (False, "yes", alarms), (False, "no", 100 - alarms),
        )  # fmt: skip

    before, whole = told(50, 50), told(90, 20)

    for part, share in ((before, 0), (whole, 1)):
        kept = knowing_kept(before, whole, part)
        assert share - 0.1 < kept.low < share == kept.share < kept.high < share + 0.1


def test_other_numbers_of_rows_are_refused():
    with pytest.raises(ValueError, match="2 and 1 rows, expected the same"):
        knowing_changes(rows((True, "yes", 2)), rows((True, "yes", 1)))
    with pytest.raises(ValueError, match="no rows"):
        knowing_figures([])
