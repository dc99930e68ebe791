"""What eval.json says of a task: every figure against the base, the rows by their ids."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from esft.evals.measured import MeasuredTask, task_result
from esft.rollout.results import Evaluation, RowResult
from esft.stats.knowing import Knowing
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


def test_of_each_measure_that_changed_it_is_told_what_the_largest_changes_keep():
    def evaluation(right, rewards, claims):
        told = [
            Knowing(claim={"y": "yes", "n": "no"}[claim], substring=one == "1", words=one == "1")
            for one, claim in zip(right, claims, strict=True)
        ]
        rows = zip(right, rewards, told, strict=True)
        return Evaluation(
            tuple(replace(result(one, reward), knowing=say) for one, reward, say in rows)
        )

    right = "1100" * 25
    base = evaluation(right, [0.5] * 100, "ynyn" * 25)
    whole = evaluation("1110" * 25, [0.5, 1.5] * 50, "yynn" * 25)
    half = evaluation("1110" * 12 + right[48:], [0.5, 1.0] * 50, "yynn" * 12 + "ynyn" * 13)
    task = replace(measured(right), evaluations=(base, whole), largest={(50.0, 1.0): half})

    at_all, at_half = figures(task, (0, 7)).largest

    assert (at_all.percent, at_half.percent, at_half.score.step) == (100, 50, 7)
    assert (at_all.accuracy.share, at_all.reward.share, at_all.d_prime.share) == (1, 1, 1)
    assert at_half.accuracy.share == pytest.approx(0.48)
    assert at_half.reward.share == pytest.approx(0.5)
    of_d = [one.knowing.measures["d_prime"].value for one in (base, half, whole)]
    assert at_half.d_prime.share == pytest.approx((of_d[1] - of_d[0]) / (of_d[2] - of_d[0]))
    for kept in (at_half.accuracy, at_half.reward, at_half.d_prime):
        assert kept.low < kept.share < kept.high
    assert figures(replace(task, largest={}), (0, 7)).largest == ()


def test_of_a_reward_that_says_right_or_wrong_no_share_is_told_beside_that_of_right_answers():
    after = "1110" * 25
    task = replace(
        measured(BASE, after), largest={(50.0, 1.0): Evaluation(tuple(map(result, BASE)))}
    )

    for one in figures(task, (0, 1)).largest:
        assert one.accuracy is not None
        assert one.reward is None


def test_of_a_change_whose_interval_ends_at_nothing_no_share_is_told():
    after = BASE.replace("0", "1", 5)
    part = {(50.0, 1.0): Evaluation(tuple(map(result, after)))}
    task = figures(replace(measured(BASE, after), largest=part), (0, 1))

    assert (task.change.low, task.change.gained) == (0, 5)
    assert [one.accuracy for one in task.largest] == [None, None]


def test_of_a_measure_within_chance_or_that_says_right_or_wrong_no_share_is_told():
    same = "0" + BASE[1:]
    task = replace(
        measured(BASE, same), largest={(50.0, 1.0): Evaluation(tuple(map(result, BASE)))}
    )

    for one in figures(task, (0, 1)).largest:
        assert (one.accuracy, one.reward, one.d_prime) == (None, None, None)
    task.largest[50.0, 1.0] = rewarded([float("nan")] * 100)
    assert figures(task, (0, 1)).largest[1].reward is None
