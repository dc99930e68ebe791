"""The forgetting matrix, against one worked out by hand and simulated ones."""

import math

import numpy as np
import pytest

from esft.stats.forgetting import forgetting

STEPS = (0, 10, 20, 30)
TUNED = {"a": (1, 1), "b": (2, 2), "c": (3, 3)}


def rows(*right, of=10):
    """Return the first so many rows right, by step."""
    return {
        step: [float(row < count) for row in range(of)]
        for step, count in zip(STEPS, right, strict=False)
    }


def test_a_matrix_by_hand():
    right = {
        "c": rows(2, 3, 1, 6),
        "a": rows(1, 7, 4, 5),
        "b": rows(3, 2, 8, 6),
        "p": rows(9, 9, 8, 7),
    }

    matrix = forgetting(STEPS, TUNED, right)

    assert [(task.task, task.stage) for task in matrix.tasks] == [
        ("a", 1),
        ("b", 2),
        ("c", 3),
        ("p", None),
    ]
    a, b, c, p = matrix.tasks
    assert [share.accuracy for share in a.shares] == [0.1, 0.7, 0.4, 0.5]
    changes = [(one.learned, one.kept, one.forward) for one in (a, b, c, p)]
    assert [tuple(change and round(change.change, 9) for change in of) for of in changes] == [
        (0.6, -0.2, None),
        (0.6, -0.2, -0.1),
        (0.5, None, -0.1),
        (None, -0.2, None),
    ]
    # Two rows of ten lost: their variance is 0.2 * 0.8 * 10 / 9.
    assert a.kept.se == pytest.approx(math.sqrt(0.16 * 10 / 9 / 10))
    assert matrix.backward.change == pytest.approx(-0.2)
    assert matrix.backward.se == pytest.approx(a.kept.se / math.sqrt(2))
    assert matrix.forward.change == pytest.approx(-0.1)


def test_a_task_of_two_stages_counts_from_its_last_and_gets_forward_from_before_its_first():
    right = {"a": rows(1, 5, 2, 6), "b": rows(3, 4, 7, 5)}

    matrix = forgetting(STEPS, {"a": (1, 3), "b": (2, 2)}, right)

    b, a = matrix.tasks
    assert (a.stage, a.learned.change, a.kept, a.forward) == (3, pytest.approx(0.4), None, None)
    assert b.forward.change == pytest.approx(0.1)
    assert vars(matrix.backward) == pytest.approx(vars(b.kept))


def test_what_was_not_measured_is_left_out():
    right = {"a": {0: [0.0, 1.0], 20: [1.0, 1.0]}, "b": {0: [1.0]}}

    matrix = forgetting(STEPS[:3], {"a": (1, 1), "b": (2, 2)}, right)

    a, b = matrix.tasks
    assert [share.stage for share in a.shares] == [0, 2]
    assert (a.learned, a.kept, b.learned, b.forward) == (None, None, None, None)
    assert (b.shares[0].se, matrix.backward, matrix.forward) == (None, None, None)


def test_the_interval_of_the_backward_transfer_holds_the_truth():
    draw, held = np.random.default_rng(3), 0
    lost, gained, times = (0.15, 0.05), (0.02, 0.05), 300
    truth = -(sum(lost) - sum(gained)) / 2
    for _ in range(times):
        right = {}
        for name, down, up in zip("ab", lost, gained, strict=True):
            before = draw.random(200) < 0.5
            chance = draw.random(200)
            # Of all rows so many are lost, and so many gained.
            after = np.where(before, chance >= 2 * down, chance < 2 * up)
            own = {"a": 10, "b": 20}[name]
            right[name] = {own: before.astype(float).tolist(), 30: after.astype(float).tolist()}
        backward = forgetting(STEPS, {"a": (1, 1), "b": (2, 2)}, right).backward
        held += backward.low <= truth <= backward.high
    assert 0.92 * times <= held <= 0.99 * times
