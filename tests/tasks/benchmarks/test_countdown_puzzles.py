import hashlib
import json
import os
import random
import subprocess
import sys
from fractions import Fraction
from itertools import combinations

import pytest

from esft.tasks.benchmarks.countdown import COUNTDOWN
from esft.tasks.benchmarks.countdown_puzzles import SIZES, puzzles, split_of
from esft.tasks.graders.arithmetic import steps
from esft.tasks.rows import read_split

SHA256_OF_THE_FIRST_100 = {
    "train": "d404418c67f65eed0d184e4de986a6fd9011fccbaad1d546b17f2e5341310fd1",
    "validation": "53a85aac5544e56cd8758b6e3cc88db95cd3c784b5bedc6cc77e9352cc18bacb",
    "test": "8009b010e43d3b55f2d89377fe636c4af3af7cf3c0a0e4f4461817e4fc581e6d",
}


def digest(rows):
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@pytest.fixture(scope="module")
def made():
    return {split: list(puzzles(split)) for split in SIZES}


@pytest.mark.parametrize("split", SIZES)
def test_every_solution_is_graded_as_right(split):
    rows = read_split(COUNTDOWN, split)

    assert len(rows) == SIZES[split]
    assert {COUNTDOWN.grade(row, [row.questions[0].reference]).reward for row in rows} == {1.1}
    assert all(row.answer is not None for row in rows)


@pytest.mark.parametrize("split", SIZES)
def test_puzzles_have_3_or_4_numbers_from_1_to_99_and_a_target_from_10_to_100(made, split):
    for puzzle in made[split]:
        assert len(puzzle["numbers"]) in (3, 4)
        assert all(type(number) is int and 1 <= number <= 99 for number in puzzle["numbers"])
        assert type(puzzle["target"]) is int
        assert 10 <= puzzle["target"] <= 100


@pytest.mark.parametrize("split", SIZES)
def test_no_result_is_a_fraction_or_negative_and_no_step_does_nothing(made, split):
    for puzzle in made[split]:
        assert puzzle["target"] not in puzzle["numbers"], puzzle
        for step in steps(puzzle["solution"], puzzle["numbers"]):
            assert step.value.denominator == 1, puzzle
            assert step.value > 0, puzzle
            assert step.sign != "*" or step.value <= 999, puzzle
            assert step.sign in "+-" or Fraction(1) not in (step.left, step.right), puzzle


@pytest.mark.parametrize("split", SIZES)
def test_both_counts_of_numbers_and_all_four_signs_are_common(made, split):
    count = len(made[split])

    assert sum(len(puzzle["numbers"]) == 4 for puzzle in made[split]) > count / 3
    for sign in "+-*/":
        assert sum(sign in puzzle["solution"] for puzzle in made[split]) > count / 10, sign


def test_no_puzzle_comes_twice(made):
    for split in SIZES:
        asked = {(*sorted(puzzle["numbers"]), puzzle["target"]) for puzzle in made[split]}
        assert len(asked) == len(made[split])


def test_no_two_splits_share_a_set_of_numbers(made):
    sets = {split: {(*sorted(row["numbers"]),) for row in made[split]} for split in SIZES}

    for one, other in combinations(SIZES, 2):
        assert not sets[one] & sets[other]


@pytest.mark.parametrize("seed", range(3))
def test_the_split_of_numbers_does_not_depend_on_their_order(seed):
    draws = random.Random(seed)
    numbers = [draws.randint(1, 99) for _ in range(4)]

    splits = {split_of(draws.sample(numbers, 4)) for _ in range(24)}

    assert splits == {split_of(numbers)}


def test_puzzles_are_the_same_in_another_process(made):
    program = (
        "import json, sys; from esft.tasks.benchmarks.countdown_puzzles import puzzles; "
        "json.dump(list(puzzles('test')), sys.stdout)"
    )

    other = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        check=True,
        text=True,
    )

    assert json.loads(other.stdout) == made["test"]


@pytest.mark.parametrize("split", SIZES)
def test_the_first_puzzles_are_those_of_the_runs_made_so_far(made, split):
    # Rewards of runs on other puzzles cannot be compared: a change here belongs in CHANGELOG.
    assert digest(made[split][:100]) == SHA256_OF_THE_FIRST_100[split]
