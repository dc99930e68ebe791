import hashlib
import json
import random
from fractions import Fraction
from itertools import combinations

import pytest

from esft.tasks.benchmarks.countdown import COUNTDOWN
from esft.tasks.benchmarks.countdown_puzzles import SIZES, puzzles, split_of
from esft.tasks.graders.arithmetic import evaluate
from esft.tasks.rows import read_split

SHA256_OF_THE_FIRST_100 = {
    "train": "d404418c67f65eed0d184e4de986a6fd9011fccbaad1d546b17f2e5341310fd1",
    "validation": "53a85aac5544e56cd8758b6e3cc88db95cd3c784b5bedc6cc77e9352cc18bacb",
    "test": "8009b010e43d3b55f2d89377fe636c4af3af7cf3c0a0e4f4461817e4fc581e6d",
}


@pytest.fixture(scope="module")
def made():
    return {split: list(puzzles(split)) for split in SIZES}


@pytest.mark.parametrize("split", SIZES)
def test_puzzles_have_3_or_4_numbers_from_1_to_99_and_a_target_from_10_to_100(made, split):
    for puzzle in made[split]:
        assert len(puzzle["numbers"]) in (3, 4)
        assert all(1 <= number <= 99 for number in puzzle["numbers"])
        assert 10 <= puzzle["target"] <= 100
        assert puzzle["target"] not in puzzle["numbers"]
    asked = {(*sorted(puzzle["numbers"]), puzzle["target"]) for puzzle in made[split]}
    assert len(asked) == len(made[split]) == SIZES[split]


@pytest.mark.parametrize("split", SIZES)
def test_solutions_are_right_and_no_result_is_a_fraction_or_negative_and_no_step_idle(made, split):
    for puzzle in made[split]:
        steps = []
        assert evaluate(puzzle["solution"], puzzle["numbers"], steps) == puzzle["target"]
        for step in steps:
            assert step.value.denominator == 1, puzzle
            assert step.value > 0, puzzle
            assert step.sign != "*" or step.value <= 999, puzzle
            assert step.sign in "+-" or Fraction(1) not in (step.left, step.right), puzzle


def test_the_rows_of_the_task_are_these_puzzles(made):
    rows = read_split(COUNTDOWN, "test")

    assert [row.answer for row in rows] == [puzzle["solution"] for puzzle in made["test"]]
    assert {COUNTDOWN.grade(row, [row.questions[0].reference]).reward for row in rows} == {1.1}


def test_no_two_splits_share_a_set_of_numbers(made):
    sets = {split: {(*sorted(row["numbers"]),) for row in made[split]} for split in SIZES}

    for one, other in combinations(SIZES, 2):
        assert not sets[one] & sets[other]


def test_the_split_of_numbers_does_not_depend_on_their_order():
    numbers = [7, 93, 14, 7]

    assert {split_of(random.Random(seed).sample(numbers, 4)) for seed in range(24)} == {
        split_of(numbers)
    }


@pytest.mark.parametrize("split", SIZES)
def test_the_first_puzzles_are_those_of_the_runs_made_so_far(made, split):
    # Rewards of runs on other puzzles cannot be compared: a change here belongs in CHANGELOG.
    first = json.dumps(made[split][:100]).encode()

    assert hashlib.sha256(first).hexdigest() == SHA256_OF_THE_FIRST_100[split]
