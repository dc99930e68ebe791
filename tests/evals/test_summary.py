"""What tuning did, in a sentence."""

import pytest

from esft.evals.summary import summary
from esft.rollout.results import Evaluation, RowResult
from esft.tuning.watcher import TaskScores


def right(*counts_of_rows, rewards=None):
    """An evaluation of which the first so many rows of so many are right."""
    count, rows = counts_of_rows
    answers = [number < count for number in range(rows)]
    rewards = map(float, answers) if rewards is None else rewards
    pairs = zip(answers, rewards, strict=True)
    return Evaluation(
        tuple(RowResult(reward=reward, correct=is_right) for is_right, reward in pairs)
    )


def task(before, after, rows, name="target"):
    return TaskScores(name=name, base=right(before, rows), now=right(after, rows))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (9, 18, "45 % -> 90 % right on 20 rows, +45 points, +"),
        (10, 10, "50 % -> 50 % right on 20 rows, 0 points, -14 to +14 (no change beyond chance)"),
        (20, 0, "100 % -> 0 % right on 20 rows, -100 points, -"),
    ],
)
def test_the_target_is_told_by_its_share_right_with_an_interval(before, after, words):
    assert summary(task(before, after, 20), ()).startswith(words)


def test_a_reward_that_is_not_just_right_or_wrong_is_told_too():
    base = right(10, 20, rewards=[0.1] * 20)
    now = right(10, 20, rewards=[0.6] * 20)

    text = summary(TaskScores(name="brief", base=base, now=now), ())

    assert text.startswith("50 % -> 50 % right on 20 rows")
    assert "; reward 0.10 -> 0.60, +0.50, +0.3" in text


def test_where_nothing_is_ever_right_the_reward_alone_is_told():
    sides = [right(0, 20, rewards=[reward] * 20) for reward in (-1.0, -0.5)]

    text = summary(TaskScores(name="own", base=sides[0], now=sides[1]), ())

    assert text.startswith("reward -1.00 -> -0.50 on 20 rows, +0.50, +0.3")
    assert "right" not in text


def test_prior_tasks_are_kept_down_or_open_by_their_intervals():
    priors = [
        task(200, 200, 200, "copy"),
        task(199, 199, 200, "sort"),
        task(200, 165, 200, "upper"),
        task(10, 9, 20, "few"),
        task(100, 160, 200, "better"),
    ]

    text = summary(task(9, 18, 20), priors)

    assert text.endswith(
        "2 prior tasks kept; down: upper by 18 points; up: better by 30 points; too few rows to "
        "tell of few"
    )


def test_priors_that_are_mostly_lost_come_with_what_to_try():
    priors = [task(200, 10, 200, f"prior {number}") for number in range(6)]

    text = summary(task(9, 18, 20), priors)

    assert text.endswith("lost most of 6 of 6 prior tasks: a smaller alpha or --awd")
