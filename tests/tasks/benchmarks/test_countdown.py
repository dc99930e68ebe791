import hashlib
import json
import random
from fractions import Fraction
from itertools import combinations

import pytest

from esft.tasks.benchmarks.countdown import (
    COUNTDOWN,
    SIZES,
    format_of,
    grade_countdown,
    puzzles,
    read_countdown,
    split_of,
)
from esft.tasks.graders.arithmetic import evaluate
from esft.tasks.rows import read_split

SHA256_OF_THE_FIRST_100 = {
    "train": "d404418c67f65eed0d184e4de986a6fd9011fccbaad1d546b17f2e5341310fd1",
    "validation": "53a85aac5544e56cd8758b6e3cc88db95cd3c784b5bedc6cc77e9352cc18bacb",
    "test": "8009b010e43d3b55f2d89377fe636c4af3af7cf3c0a0e4f4461817e4fc581e6d",
}


def puzzle(**changes):
    row = {"numbers": [40, 15, 30], "target": "85", "solution": "((40 + 15) + 30)"}
    return {**row, **changes}


def graded(answer, **changes):
    return grade_countdown(read_countdown(puzzle(**changes)), answer)


def in_form(expression):
    return f"<think>40 + 15 is 55</think>\n<answer>{expression}</answer>"


@pytest.mark.parametrize(
    ("numbers", "target", "solution", "worked"),
    [
        ([8, 3, 3, 8], 24, "8 / (3 - 8 / 3)", "8 / 3 = 8/3; 3 - (8/3) = 1/3; 8 / (1/3) = 24"),
        ([5, 2, 6], 15, "5 / 2 * 6", "5 / 2 = 5/2; (5/2) * 6 = 15"),
        ([5, 9, 2], 6, "2 - (5 - 9)", "5 - 9 = -4; 2 - (-4) = 6"),
        ([5, 9, 2], -2, "5 - 9 + 2", "5 - 9 = -4; -4 + 2 = -2"),
        ([5, 9, 2], 12, "-2 + 9 + 5", "-2 + 9 = 7; 7 + 5 = 12"),
    ],
)
def test_the_reference_works_the_solution_out(numbers, target, solution, worked):
    row = read_countdown({"numbers": numbers, "target": target, "solution": solution})

    (question,) = row.questions
    assert question.opening == "<think>"
    assert question.messages[0]["content"].startswith(
        f"Numbers: {', '.join(map(str, numbers))}\nTarget: {target}\n\nFind an expression"
    )
    assert question.reference == f"<think>{worked}</think>\n<answer>{solution}</answer>"
    assert grade_countdown(row, question.reference).reward == COUNTDOWN.max_reward == 1.1


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("((40 + 15) + 30)", "(40 + 15) + 30"),
        (" ( (40 + 15 + 30) ) ", "40 + 15 + 30"),
        ("(40 + 15) + (30)", "(40 + 15) + (30)"),
        ("40+15+30", "40+15+30"),
    ],
)
def test_parentheses_around_the_whole_solution_are_left_out(solution, answer):
    assert read_countdown(puzzle(solution=solution)).answer == answer


@pytest.mark.parametrize(
    "solution", [None, "40 + 15", "40 + 15 + 30 + 30", "40 + 15 - 30", "40 + 15 + 30 = 86", "none"]
)
def test_without_a_solution_that_is_right_there_is_no_answer_and_no_reference(solution):
    row = read_countdown(puzzle(solution=solution))

    assert row.answer is None
    assert row.questions[0].reference is None


def test_both_column_forms_are_the_same_puzzle():
    file_form = read_countdown({"numbers": [40, 15, 30], "target": "85", "solution": None})
    hub_form = read_countdown({"nums": [40, 15, 30], "target": 85})

    assert hub_form == file_form
    assert hub_form.facts == {"numbers": (40, 15, 30), "target": Fraction(85)}


def test_a_row_without_an_id_gets_one_from_what_it_asks():
    changes = ({}, {"solution": None}, {"target": "97"}, {"numbers": [40, 30, 15]})

    same, without, *others = (read_countdown(puzzle(**change)).id for change in changes)

    assert len({same, *others}) == 3
    assert without == same
    assert read_countdown(puzzle(id=0)).id == "0"


@pytest.mark.parametrize(
    ("target", "exact"), [(85, 85), (" 85 ", 85), (-40, -40), ("-16.5", "-33/2"), (27.4, "137/5")]
)
def test_targets_are_numbers_or_texts_with_one(target, exact):
    assert read_countdown(puzzle(target=target)).facts["target"] == Fraction(exact)


@pytest.mark.parametrize(
    "expression", ["40 + 15 + 30", " (30+15) + 40\n", "((40 + (15)) + 30)", "40 − (−15) + 30"]
)
def test_a_right_answer_in_the_exact_form_gets_all(expression):
    grade = graded(in_form(expression))

    assert (grade.reward, grade.correct) == (1.1, True)


WRONG = ["", "85", "40 + 15", "40 + 15 - 30", "40 + 15 + 30 + 0", "40 + 15 + 30 = 86"]
WRONG += ["40 + 15 + 30.0", "40 + 15 + 30 # sum", r"\sqrt(40 + 15 + 30)"]


@pytest.mark.parametrize("expression", WRONG)
def test_a_wrong_answer_in_the_exact_form_gets_the_form(expression):
    grade = graded(in_form(expression))

    assert (grade.reward, grade.correct) == (pytest.approx(0.1, abs=1e-12), False)


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("<answer>40 + 15</answer> no: <answer>40 + 15 + 30</answer>", True),
        ("<answer>40 + 15 + 30</answer> no: <answer>40 + 15</answer>", False),
        ("<answer>40 + 15 + 30</answer> no: <answer>40 + 15", True),
        ("<answer>40 + 15 + 30</answer> so </answer>", True),
        ("<answer>so <answer>40 + 15 + 30</answer>", True),
        ("</answer>40 + 15 + 30<answer>", False),
        ("<answer>40 + 15 + 30", False),
        ("<ANSWER>40 + 15 + 30</ANSWER>", False),
        ("40 + 15 + 30", False),
        ("", False),
    ],
)
def test_the_last_pair_of_answer_tags_counts(answer, correct):
    assert graded(answer).correct is correct


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("<think>a</think>\n<answer>b</answer>", 1),
        ("<think>a</think><answer>b</answer>", 1),
        (" \n<think>a\n\nb</think> \n\n <answer>\nc\n</answer>\n", 1),
        ("<think></think><answer></answer>", 1),
        ("<think>a</think>\n<answer>b</answer>.", 0.6),
        ("So: <think>a</think>\n<answer>b</answer>", 0.6),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.6),
        ("<think><think>a</think><answer>c</answer>", 0.6),
        ("<think>is it <answer>b</answer>?</think><answer>b</answer>", 0.6),
        ("<think>a<answer>b</answer>", 0.5),
        ("<think>a<answer></think>b</answer>", 0.6),
        ("<answer>b</answer><think>a</think>", 0.6),
        ("<answer>b</answer>", 0.5),
        ("<think>a</think><answer>b", 0.1),
        ("<think>a", 0),
        ("</think></answer><think><answer>", 0),
        ("< think >a< /think >", 0),
        ("", 0),
    ],
)
def test_the_share_of_the_form(answer, share):
    assert format_of(answer) == share
    assert graded(answer).reward == pytest.approx(0.1 * share, abs=1e-12)
    right = graded(answer.replace("<answer>b</answer>", "<answer>40 + 15 + 30</answer>"))
    assert right.reward == pytest.approx(right.correct + 0.1 * share, abs=1e-12)


@pytest.mark.parametrize(
    ("numbers", "target", "expression", "correct"),
    [
        ([22, 4, 3], "11.333333333333334", "4 + 22 / 3", True),
        ([22, 4, 3], "11.3333333", "4 + 22 / 3", False),
        ([22, 4, 3], 22 / 3 + 4, "4 + 22 / 3", True),
        ([22, 4, 5], "-0.4", "4 - 22 / 5", True),
        ([22, 4, 5], "0.4", "4 - 22 / 5", False),
        ([4, 2, 2], "0", "4 - 2 - 2", True),
        ([999_999, 999_998, 1], "1", "999999 / 999998 * 1", False),
        ([999_999, 1, 999_999, 999_999], "999999", "999999 + 1 / 999999 / 999999", False),
    ],
)
def test_targets_with_decimals_are_met_within_a_billionth_and_whole_ones_exactly(
    numbers, target, expression, correct
):
    changes = {"numbers": numbers, "target": target, "solution": None}

    assert graded(in_form(expression), **changes).correct is correct


def test_published_solutions_are_right_but_for_the_known_wrong_ones(data_dir):
    file = data_dir / "countdown.test.jsonl"
    wrong = set()
    for line in file.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        if raw["solution"] is None:
            continue

        grade = grade_countdown(read_countdown(raw), f"<answer>{raw['solution']}</answer>")

        if not grade.correct:
            wrong.add(raw["id"])
    assert wrong == {281, 429, 566, 640, 798, 800, 1085, 1178, 1340, 1560, 1847, 1984}


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


def test_no_two_splits_share_a_set_of_numbers_in_any_order(made):
    sets = {split: {(*sorted(row["numbers"]),) for row in made[split]} for split in SIZES}

    for one, other in combinations(SIZES, 2):
        assert not sets[one] & sets[other]
    numbers = [7, 93, 14, 7]
    assert {split_of(random.Random(seed).sample(numbers, 4)) for seed in range(24)} == {
        split_of(numbers)
    }


@pytest.mark.parametrize("split", SIZES)
def test_the_first_puzzles_are_those_of_the_runs_made_so_far(made, split):
    # Rewards of runs on other puzzles cannot be compared: a change here belongs in CHANGELOG.
    first = json.dumps(made[split][:100]).encode()

    assert hashlib.sha256(first).hexdigest() == SHA256_OF_THE_FIRST_100[split]
