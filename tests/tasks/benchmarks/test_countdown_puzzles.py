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
from esft.tasks.graders.arithmetic import evaluate, steps
from esft.tasks.rows import read_split, split_rows

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


@pytest.mark.parametrize(
    ("split", "count"), [("train", 4000), ("validation", 1000), ("test", 1000)]
)
def test_a_split_has_its_number_of_puzzles(made, split, count):
    assert len(made[split]) == count


@pytest.mark.parametrize("split", SIZES)
def test_every_solution_reaches_its_target_with_every_number_once(made, split):
    for puzzle in made[split]:
        assert evaluate(puzzle["solution"], puzzle["numbers"]) == puzzle["target"], puzzle


@pytest.mark.parametrize("split", SIZES)
def test_every_solution_is_graded_as_right(split):
    rows = read_split(COUNTDOWN, split)

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


@pytest.mark.parametrize("seed", range(20))
def test_the_split_of_numbers_does_not_depend_on_their_order(seed):
    draws = random.Random(seed)
    numbers = [draws.randint(1, 99) for _ in range(4)]

    splits = {split_of(draws.sample(numbers, 4)) for _ in range(24)}

    assert splits == {split_of(numbers)}


def test_puzzles_are_the_same_at_every_call(made):
    for split in SIZES:
        assert list(puzzles(split)) == made[split]


def test_the_first_puzzles_do_not_depend_on_how_many_are_read(made):
    stream = puzzles("train")

    assert [next(stream) for _ in range(5)] == made["train"][:5]


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_puzzles_are_the_same_in_another_process(made, hash_seed):
    program = (
        "import json, sys; from esft.tasks.benchmarks.countdown_puzzles import puzzles; "
        "json.dump(list(puzzles('test')), sys.stdout)"
    )

    other = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
        text=True,
    )

    assert json.loads(other.stdout) == made["test"]


def test_the_state_of_the_global_generator_does_not_count(made):
    random.seed(5)

    assert list(puzzles("test")) == made["test"]


@pytest.mark.parametrize("split", SIZES)
def test_the_first_puzzles_are_those_of_the_runs_made_so_far(made, split):
    # Rewards of runs on other puzzles cannot be compared: a change here belongs in CHANGELOG.
    assert digest(made[split][:100]) == SHA256_OF_THE_FIRST_100[split]


def test_the_defaults_of_a_run_are_met():
    split = split_rows(COUNTDOWN, 200, 200)

    keys = {row.key for row in split.train + split.holdout}
    assert len(keys) == 400
    assert not keys & {row.key for row in read_split(COUNTDOWN, "test")}
