"""What eval.json says of a task: every figure against the base, the rows by their ids."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from esft.evals.run import MeasuredTask, task_result
from esft.rollout.results import Evaluation, RowResult
from esft.tasks.task import Row, ask

BASE = "1100" * 25
"""Whether each row is right."""


def measured(*outcomes):
    """A task with an evaluation for each text of 0 and 1."""
    evaluations = tuple(Evaluation(tuple(map(result, outcome))) for outcome in outcomes)
    rows = tuple(
        Row(id=f"row-{number}", questions=(ask(str(number)),)) for number in range(len(outcomes[0]))
    )
    rollout = SimpleNamespace(task=SimpleNamespace(name="letters"), scoring="exact")
    encoded = [SimpleNamespace(row=row) for row in rows]
    task = SimpleNamespace(name="letters", role="prior", rollout=rollout, encoded=encoded)
    return MeasuredTask(task=task, steps=(), evaluations=evaluations)


def figures(task, steps, margin=0.03):
    """What is said of a task that was measured at these steps."""
    return task_result(replace(task, steps=steps), margin)


def result(right, reward=None):
    reward = float(right) if reward is None else reward
    return RowResult(reward=reward, correct=right == "1")


def rewarded(rewards):
    return Evaluation(tuple(result("0", reward) for reward in rewards))


def test_every_step_is_compared_with_the_base_row_by_row():
    steps = ("1011" + BASE[4:], "0000" + BASE[4:], "1111" + BASE[4:])

    record = figures(measured(BASE, *steps), (0, 2, 5, 9))

    assert [one.step for one in record.evaluations] == [0, 2, 5, 9]
    assert [one.step for one in record.comparisons] == [2, 5, 9]
    assert [one.change for one in record.comparisons] == pytest.approx([0.01, -0.02, 0.02])
    gained = [one.gained_rows for one in record.comparisons]
    lost = [one.lost_rows for one in record.comparisons]
    assert gained == [("row-2", "row-3"), (), ("row-2", "row-3")]
    assert lost == [("row-1",), ("row-0", "row-1"), ()]
    for one in record.comparisons:
        assert (one.gained, one.lost) == (len(one.gained_rows), len(one.lost_rows))
        assert one.low < one.change < one.high


def test_the_verdict_is_of_the_last_step_and_of_the_margin_asked_for():
    up, same = "1" * 100, BASE

    assert figures(measured(BASE, same, up), (0, 1, 2)).verdict.kind == "improved"
    assert figures(measured(BASE, up, same), (0, 1, 2)).verdict.kind != "improved"
    wide = figures(measured(BASE, up, up), (0, 1, 2), 0.9).verdict
    assert wide.kind == "unchanged"
    assert wide.difference == pytest.approx(0.5)


def test_rewards_are_compared_where_they_are_something_else_than_right_or_wrong():
    task = measured("0" * 4, "0" * 4, "0" * 4)
    base, low, high = rewarded([0.5] * 4), rewarded([0.5, 0.25, 0.5, 0.25]), rewarded([1.0] * 4)
    task = replace(task, evaluations=(base, low, high))

    first, last = figures(task, (0, 1, 2)).comparisons

    assert (first.change, last.change) == (0, 0)
    assert (first.reward_change, last.reward_change) == (-0.125, 0.5)
    assert first.reward_low < -0.125 < first.reward_high
    assert first.reward_se == pytest.approx(0.125 / 3**0.5)


@pytest.mark.parametrize("after", ["0000", [float("nan"), 0, 0, 0]])
def test_rewards_that_say_nothing_more_or_are_not_finite_are_not_compared(after):
    now = rewarded(after) if isinstance(after, list) else measured(after).evaluations[0]
    task = replace(measured("0000"), evaluations=(*measured("1000").evaluations, now))

    (found,) = figures(task, (0, 3)).comparisons

    assert found.reward_change is None
