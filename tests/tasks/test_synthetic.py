import hashlib
import json
import os
import random
import subprocess
import sys
from itertools import combinations, islice

import pytest

from esft.tasks.rows import read_split, split_rows
from esft.tasks.synthetic import (
    KINDS,
    SYNTHETIC,
    grade_exact,
    puzzles,
    read_synthetic,
    split_of,
    stream,
)
from esft.tasks.words import SPLITS

NAMES = [task.name for task in SYNTHETIC]
SHA256 = {
    "copy-letters": "30501b1a644b5958ab18d476bfaa11e0f8df49e9588174f86ab597908c235b36",
    "reverse-letters": "ba11fe2639bc61a730783b5b97d395af240937274f15e2b88c9a7988b107c8d8",
    "upper-letters": "cd426ed0b8288580cd44036550dd337ae9e95b9f6ac3d28ab298ba7b0df5fc51",
    "count-letter": "405cdb865634087fbd8c161a434396273c865bb6ade5d34741dae44ecc443a39",
    "sort-digits": "8cdfc20e83a4d148b8d3db750b5905f88c2dc91f2337dab4836c275b64a9ee23",
    "largest-digit": "bdaf9801fcf8ba529816e079e9f1c5751ba5c69fa146fb077eea1b3cbf0a19f5",
    "add-two-digits": "9a8e01dd1489f45f8f7448af58798dd8910288b7976ffcddb9a62d5fb60dae59",
    "subtract-two-digits": "7522af455f5540f2a3851de52eab95278c5d1ce6d88348e985d2cbb38eaaf753",
}
PROGRAM = """
import json, sys
from esft.tasks.synthetic import KINDS, puzzles
json.dump({n: [[p.prompt, p.answer] for p in puzzles(n, "test")] for n in KINDS}, sys.stdout)
"""


@pytest.fixture(scope="module")
def made():
    return {name: {split: list(puzzles(name, split)) for split in SPLITS} for name in KINDS}


def pairs(some):
    return [[puzzle.prompt, puzzle.answer] for puzzle in some]


def right_answer(prompt):
    """What a reader of the prompt would answer, worked out in another way than the generator's."""
    if not prompt[0].isalpha():
        return str(eval(prompt))
    verb, *rest = prompt.split()
    word = rest[-1]
    if verb == "count":
        return str(len(word) - len(word.replace(rest[0], "")))
    if verb == "sort":
        return "".join(digit * word.count(digit) for digit in "0123456789")
    if verb == "largest":
        return [digit for digit in "0123456789" if digit in word][-1]
    if verb == "upper":
        return "".join(chr(ord(letter) - 32) for letter in word)
    return "".join(reversed(word)) if verb == "reverse" else word


@pytest.mark.parametrize("name", KINDS)
def test_every_answer_is_right(made, name):
    for split in SPLITS:
        for puzzle in made[name][split]:
            assert puzzle.answer == right_answer(puzzle.prompt), puzzle


@pytest.mark.parametrize("name", KINDS)
def test_prompts_have_at_most_16_characters_and_answers_1_to_6(made, name):
    for split in SPLITS:
        for puzzle in made[name][split]:
            assert len(puzzle.prompt) <= 16, puzzle
            assert 1 <= len(puzzle.answer) <= 6, puzzle
            assert puzzle.answer == puzzle.answer.strip()


@pytest.mark.parametrize("name", KINDS)
def test_no_puzzle_comes_twice(made, name):
    for split in SPLITS:
        assert len({puzzle.prompt for puzzle in made[name][split]}) == KINDS[name].sizes[split]


@pytest.mark.parametrize("name", KINDS)
def test_no_two_splits_share_a_puzzle_even_with_its_characters_in_another_order(made, name):
    asked = {
        split: {"".join(sorted(puzzle.prompt)) for puzzle in made[name][split]} for split in SPLITS
    }

    for one, other in combinations(SPLITS, 2):
        assert not asked[one] & asked[other]


@pytest.mark.parametrize("seed", range(3))
def test_the_split_does_not_depend_on_the_order_of_characters(seed):
    drawn = list("27+58")
    random.Random(seed).shuffle(drawn)

    assert split_of("".join(drawn)) == split_of("27+58")


@pytest.mark.parametrize("name", ["copy-letters", "reverse-letters", "sort-digits"])
def test_words_of_3_to_6_characters_are_about_as_common(made, name):
    lengths = [len(puzzle.answer) for puzzle in made[name]["train"]]

    assert set(lengths) == {3, 4, 5, 6}
    for length in (4, 5, 6):  # there are only 1,000 words of 3 digits
        assert lengths.count(length) > len(lengths) / 6


def test_a_letter_comes_never_often_and_in_between(made):
    answers = [puzzle.answer for puzzle in made["count-letter"]["train"]]

    for count in "0123":
        assert answers.count(count) > len(answers) / 20, count


def test_puzzles_are_the_same_in_another_process(made):
    other = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        check=True,
        text=True,
    )

    assert json.loads(other.stdout) == {name: pairs(made[name]["test"]) for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_the_rows_are_those_of_the_runs_made_so_far(made, name):
    # Scores on other rows cannot be compared: a change here belongs in CHANGELOG, and the
    # embedded model has to be trained again.
    rows = [pairs(made[name][split]) for split in SPLITS]

    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == SHA256[name]


@pytest.mark.parametrize("name", KINDS)
def test_a_stream_goes_on_where_the_rows_of_its_split_end(name):
    some = list(islice(stream(name, "train", seed=1), 3000))

    asked = {puzzle.prompt for puzzle in some}
    held_out = {each.prompt for split in ("validation", "test") for each in puzzles(name, split)}
    assert not asked & held_out
    assert asked - {puzzle.prompt for puzzle in puzzles(name, "train")}


@pytest.mark.parametrize("name", ["copy-letters", "add-two-digits"])
def test_streams_of_other_seeds_are_others(name):
    one, other = (list(islice(stream(name, "train", seed), 50)) for seed in (0, 1))

    assert one != other


@pytest.mark.parametrize("task", SYNTHETIC, ids=NAMES)
def test_rows_of_a_task_are_its_puzzles(made, task):
    rows = read_split(task, "test")

    assert [[row.questions[0].messages[0]["content"], row.answer] for row in rows] == pairs(
        made[task.name]["test"]
    )
    assert all(row.questions[0].reference == row.answer for row in rows)
    assert len({row.id for row in rows}) == len({row.key for row in rows}) == len(rows)


@pytest.mark.parametrize("task", SYNTHETIC, ids=NAMES)
def test_every_reference_is_graded_as_right_and_no_other_answer(task):
    for row in read_split(task, "validation"):
        assert task.grade(row, [row.questions[0].reference]).reward == 1.0
        assert (
            task.grade(row, [row.questions[0].reference + row.questions[0].reference]).reward == 0.0
        )


@pytest.mark.parametrize("task", SYNTHETIC, ids=NAMES)
def test_the_defaults_of_a_run_are_met(task):
    split = split_rows(task, None, None)

    assert (len(split.train), len(split.holdout)) == (200, 200)


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("85", True),
        (" 85\n", True),
        ("085", False),
        ("85.", False),
        ("8 5", False),
        ("58", False),
        ("", False),
    ],
)
def test_an_answer_is_right_character_by_character(answer, correct):
    row = read_synthetic("add-two-digits", {"prompt": "27+58", "answer": "85"})

    score = grade_exact(row, answer)

    assert (score.reward, score.correct) == (float(correct), correct)
