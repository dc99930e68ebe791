"""What tuning did, in a sentence."""

import math

import pytest
from records import a_score

from esft.evals.results import TaskResult, compared
from esft.evals.summary import summary


def task(before, after, rows=20, name="target", role="target", rewards=None, through=()):
    """A task of which so many of so many rows were right, `through` steps in between; `rewards`
    are those of each of its rows, before and after, where they say more than right or wrong."""
    counts = (before, *through, after)
    rewards = [None] * len(counts) if rewards is None else rewards
    of_steps, scores = {}, []
    for step, (count, reward) in enumerate(zip(counts, rewards, strict=True)):
        right = [float(number < count) for number in range(rows)]
        of_steps[step] = [(one, one if reward is None else reward) for one in right]
        mean = count / rows if reward is None else reward
        scores.append(a_score(step, n=rows, accuracy=count / rows, reward=mean))
    result = TaskResult(name=name, role=role, evaluations=tuple(scores))
    return compared(result, of_steps, [str(row) for row in range(rows)])


def prior(name, before, after, rows=200, **changes):
    return task(before, after, rows, name, "prior", **changes)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (9, 18, "45 % -> 90 % right on 20 rows, +45 points, +"),
        (10, 10, "50 % -> 50 % right on 20 rows, 0 points, -14 to +14 (no change beyond chance)"),
        (20, 0, "100 % -> 0 % right on 20 rows, -100 points, -"),
    ],
)
def test_the_target_is_told_by_its_share_right_with_an_interval(before, after, words):
    text = summary([task(before, after)])

    assert text.startswith(words)
    assert ("beyond chance" in text) == (before == after)


def test_with_many_rows_changes_are_told_in_tenths():
    text = summary([task(1000, 1123, 5000)])

    assert text.startswith("20 % -> 22 % right on 5,000 rows, +2.5 points, +2.0 to +2.9")


def test_a_reward_that_is_not_just_right_or_wrong_is_told_too():
    text = summary([task(10, 10, rewards=(0.1, 0.6))])

    assert text.startswith("50 % -> 50 % right on 20 rows")
    assert "; reward 0.10 -> 0.60, +0.50, +0.3" in text


def test_where_nothing_is_ever_right_the_reward_alone_is_told():
    text = summary([task(0, 0, rewards=(-1.0, -0.5))])

    assert text.startswith("reward -1.00 -> -0.50 on 20 rows, +0.50, +0.3")
    assert "right" not in text


def test_where_the_reward_overflowed_right_answers_are_told():
    text = summary([task(0, 0, rewards=(1.5, math.nan))])

    assert text.startswith("0 % -> 0 % right on 20 rows")
    assert "nan" not in text


def test_prior_tasks_are_told_by_their_verdicts_in_the_words_of_these():
    settled = (165,) * 4
    tasks = [
        prior("copy", 200, 200),
        prior("sort", 199, 199),
        prior("back", 200, 200, through=(165, 200, 200, 200)),
        prior("upper", 200, 165),
        prior("settled", 200, 165, through=settled),
        prior("falling", 200, 110, through=(190, 170, 150, 130)),
        prior("few", 10, 9, 20),
        prior("better", 100, 160),
    ]

    text = summary([task(9, 18), *tasks])

    assert text.endswith(
        "; 3 prior tasks kept; down: upper -18 points; drifting: falling -45 points; "
        "lost: settled -18 points; improved: better +30 points; too few rows to tell of few"
    )


def test_priors_that_are_mostly_lost_come_with_what_to_try():
    priors = [prior(f"prior {number}", 200, 10) for number in range(6)]

    text = summary([task(9, 18), *priors])

    assert text.endswith("lost most of 6 of 6 prior tasks: a smaller alpha or --awd")


def test_of_many_tasks_three_are_named():
    text = summary([task(9, 18), *(prior(f"p{number}", 10, 9, 20) for number in range(6))])

    assert text.endswith("too few rows to tell of p0, p1, p2, 3 more")


def test_what_was_not_measured_again_is_said_to_be():
    base = (
        TaskResult(name="x", role=role, evaluations=(a_score(0, n=20, accuracy=0.45),))
        for role in ("target", "prior")
    )

    assert summary([*base]) == (
        "the base model has 45 % right on 20 rows; what tuning did was not measured yet; "
        "1 prior task not measured again yet"
    )
