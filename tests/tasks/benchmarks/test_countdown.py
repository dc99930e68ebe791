import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.errors import TaskError
from esft.tasks.benchmarks.countdown import (
    COUNTDOWN,
    COUNTDOWN_3TO4,
    format_of,
    grade_countdown,
    read_countdown,
)
from esft.tasks.rows import read_split, row_source

FILES = Path(__file__).parents[1] / "files"


def puzzle(**changes):
    row = {"numbers": [40, 15, 30], "target": "85", "solution": "((40 + 15) + 30)"}
    return {**row, **changes}


def graded(answer, **changes):
    return grade_countdown(read_countdown(puzzle(**changes)), answer)


def in_form(expression):
    return f"<think>40 + 15 is 55</think>\n<answer>{expression}</answer>"


def test_a_message_has_the_numbers_the_target_and_the_form_of_the_answer():
    row = read_countdown(puzzle())

    (message,) = row.questions[0].messages
    assert message["role"] == "user"
    assert message["content"].startswith("Numbers: 40, 15, 30\nTarget: 85\n")
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        assert tag in message["content"]


def test_the_model_goes_on_from_the_think_tag():
    row = read_countdown(puzzle())

    assert row.questions[0].opening == "<think>"
    assert row.questions[0].reference.startswith(row.questions[0].opening)


def test_the_reference_works_the_solution_out():
    row = read_countdown(puzzle())

    assert row.answer == "(40 + 15) + 30"
    assert row.questions[0].reference == (
        "<think>40 + 15 = 55; 55 + 30 = 85</think>\n<answer>(40 + 15) + 30</answer>"
    )


@pytest.mark.parametrize(
    ("numbers", "target", "solution", "worked"),
    [
        (
            [8, 3, 3, 8],
            24,
            "8 / (3 - 8 / 3)",
            "8 / 3 = 8/3; 3 - (8/3) = 1/3; 8 / (1/3) = 24",
        ),
        ([5, 2, 6], 15, "5 / 2 * 6", "5 / 2 = 5/2; (5/2) * 6 = 15"),
        ([5, 9, 2], 8, "2 * (9 - 5)", "9 - 5 = 4; 2 * 4 = 8"),
        ([5, 9, 2], 6, "2 - (5 - 9)", "5 - 9 = -4; 2 - (-4) = 6"),
        ([5, 9, 2], -2, "5 - 9 + 2", "5 - 9 = -4; -4 + 2 = -2"),
        ([5, 9, 2], 12, "-2 + 9 + 5", "-2 + 9 = 7; 7 + 5 = 12"),
    ],
)
def test_fractions_and_negative_results_within_a_reference(numbers, target, solution, worked):
    row = read_countdown({"numbers": numbers, "target": target, "solution": solution})

    assert row.questions[0].reference == f"<think>{worked}</think>\n<answer>{solution}</answer>"
    assert grade_countdown(row, row.questions[0].reference).reward == 1.1


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
    "solution", [None, "40 + 15", "40 + 15 + 30 + 30", "40 + 15 - 30", "40 + 15 + 30 = 85", "none"]
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


def test_the_context_column_does_not_count():
    assert read_countdown(puzzle(context="Say yes. <think>")) == read_countdown(puzzle())


def test_a_row_without_an_id_gets_one_from_what_it_asks():
    ids = {
        read_countdown(puzzle()).id,
        read_countdown(puzzle(solution=None)).id,
        read_countdown(puzzle(target="97")).id,
        read_countdown(puzzle(numbers=[40, 30, 15])).id,
    }

    assert len(ids) == 3
    assert all(len(id) == len("countdown-") + 12 and id.startswith("countdown-") for id in ids)


@pytest.mark.parametrize(("id", "expected"), [(0, "0"), (281, "281"), ("p-7", "p-7")])
def test_a_row_keeps_its_id(id, expected):
    assert read_countdown(puzzle(id=id)).id == expected


@pytest.mark.parametrize(
    ("target", "exact"),
    [
        (85, "85"),
        ("85", "85"),
        (" 85 ", "85"),
        (-40, "-40"),
        ("-16.5", "-33/2"),
        (27.4, "137/5"),
        ("27.4", "137/5"),
        ("85.0", "85"),
        ("0", "0"),
    ],
)
def test_targets_are_numbers_or_texts_with_one(target, exact):
    assert read_countdown(puzzle(target=target)).facts["target"] == Fraction(exact)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"target": 85}, r"column numbers \(or nums\) is missing, the row has: target"),
        ({}, r"column numbers \(or nums\) is missing, the row has: no columns"),
        ({"nums": [1, 2, 3]}, "column target is missing, the row has: nums"),
        ({"nums": [1], "target": 1}, r"column nums is \[1\], expected 2 to 6 whole numbers from 0"),
        (puzzle(numbers=[]), r"column numbers is \[\], expected 2 to 6 whole numbers"),
        (puzzle(numbers=[1] * 7), r"column numbers is \[1, .*\], expected 2 to 6 whole"),
        (puzzle(numbers=[1, -2]), r"column numbers is \[1, -2\], expected"),
        (puzzle(numbers=[1, 1_000_000]), r"is \[1, 1000000\], expected .* to 999,999"),
        (puzzle(numbers=[1, 2.0]), r"column numbers is \[1, 2.0\], expected"),
        (puzzle(numbers=[1, True]), r"column numbers is \[1, True\], expected"),
        (puzzle(numbers=[1, "2"]), r"column numbers is \[1, '2'\], expected"),
        (puzzle(numbers="40 15 30"), "column numbers is '40 15 30', expected"),
        (puzzle(numbers=None), "column numbers is None, expected"),
        (puzzle(target=None), "column target is None, expected a number, or a text with one"),
        (puzzle(target=True), "column target is True, expected"),
        (puzzle(target=""), "column target is '', expected"),
        (puzzle(target="ten"), "column target is 'ten', expected"),
        (puzzle(target="1/3"), "column target is '1/3', expected"),
        (puzzle(target="1e3"), "column target is '1e3', expected"),
        (puzzle(target="9" * 5000), "column target is '99.*99', expected"),
        (puzzle(target="٩"), "column target is '٩', expected"),
        (puzzle(target=float("nan")), "column target is nan, expected"),
        (puzzle(target=float("inf")), "column target is inf, expected"),
        (puzzle(target=[85]), r"column target is \[85\], expected"),
        (puzzle(solution=85), "column solution is 85, expected an expression, or null"),
        (puzzle(solution=""), "column solution is '', expected an expression, or null"),
        (puzzle(id=None), "column id is None, expected a whole number or a text"),
        (puzzle(id=1.5), "column id is 1.5, expected"),
        (puzzle(id=True), "column id is True, expected"),
        (puzzle(id=""), "column id is '', expected"),
    ],
)
def test_a_wrong_row_is_refused_with_column_value_and_what_was_expected(raw, message):
    with pytest.raises(TaskError, match=message):
        read_countdown(raw)


@pytest.mark.parametrize(
    "expression",
    [
        "40 + 15 + 30",
        " (30+15) + 40\n",
        "((40 + (15)) + 30)",
        "40 − (−15) + 30",
        "40 - -15 + 30",
    ],
)
def test_a_right_answer_in_the_exact_form_gets_all(expression):
    score = graded(in_form(expression))

    assert score.correct is True
    assert score.reward == COUNTDOWN.max_reward == 1.1


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "85",
        "40 + 15",
        "40 + 15 - 30",
        "40 + 15 + 30 + 0",
        "40 + 15 + 30 = 85",
        "40 + 45",
        "40 + 15 + 30 * 40 / 40",
        "40 + 15 + 30.0",
        "40 + 15 + 30 # sum",
        "40 + 15 + 30 / 1",
        "5 * 17",
        r"\(40 + 15 + 30\)",
        "x",
    ],
)
def test_a_wrong_answer_in_the_exact_form_gets_the_form(expression):
    score = graded(in_form(expression))

    assert score.correct is False
    assert score.reward == pytest.approx(0.1, abs=1e-12)


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
        ("40 + 15 + 30</answer>", False),
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
        ("<think>a</think>\nSo: <answer>b</answer>", 0.6),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.6),
        ("<think>a</think><think>b</think><answer>c</answer>", 0.6),
        ("<think><think>a</think><answer>c</answer>", 0.6),
        ("<think>is it <answer>b</answer>?</think><answer>b</answer>", 0.6),
        ("<think>a<answer>b</answer>", 0.5),
        ("<think>a<answer></think>b</answer>", 0.6),
        ("<answer>b</answer><think>a</think>", 0.6),
        ("<answer>b</answer>", 0.5),
        ("<think>a</think><answer>b", 0.1),
        ("<think>a</think> b", 0.1),
        ("a <think>b</think> c", 0.1),
        ("<think>a</think><answer/>", 0.1),
        ("<think>a", 0),
        ("a</think>", 0),
        ("</think>a<think>", 0),
        ("</think></answer><think><answer>", 0),
        ("< think >a< /think >", 0),
        ("40 + 15 + 30", 0),
        ("", 0),
    ],
)
def test_the_share_of_the_form(answer, share):
    assert format_of(answer) == share
    assert graded(answer).reward == pytest.approx(0.1 * share, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("<think>a</think> So: <answer>40 + 15 + 30</answer>", 1.06),
        ("<answer>40 + 15 + 30</answer>", 1.05),
        (in_form("40 + 15 + 30") + " 85.", 1.06),
    ],
)
def test_a_right_answer_in_another_form_gets_less(answer, reward):
    assert graded(answer).reward == pytest.approx(reward, abs=1e-12)


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


PIECES = ["<think>", "</think>", "<answer>", "</answer>", "40", "15", "30", "+", "(", ")", " ", "/"]


@given(answer=st.text() | st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_answer_gets_a_score_and_none_more_than_the_most(answer):
    score = graded(answer)

    assert 0 <= score.reward <= 1.1
    assert score.correct is (score.reward >= 1)


@given(expression=st.text(st.sampled_from("4013+-*/() ="), max_size=20), gap=st.text("\n \t"))
def test_any_expression_in_the_exact_form_gets_the_form_at_least(expression, gap):
    score = graded(f"<think>so</think>{gap}<answer>{expression}</answer>{gap}")

    assert score.reward == pytest.approx(0.1 + score.correct, abs=1e-12)


@pytest.mark.parametrize(
    "answer",
    [
        "<think>" * 15_000,
        "</answer>" * 11_000,
        "<answer>" * 12_500,
        "<answer>" * 6_000 + "</answer>" * 6_000,
        "<answer></answer>" * 6_000,
        "<think></think><answer></answer>" * 3_000,
        in_form("9" * 100_000),
        in_form("(" * 50_000 + "40" + ")" * 50_000),
        in_form("40 + " * 20_000),
        in_form("9**9**9**9"),
        in_form("40" + "**99" * 25_000),
        in_form("40 + 15 + 30" + " " * 100_000),
        in_form("1/0"),
        "<" * 100_000,
        " " * 100_000,
        "\0" * 100_000,
        "\ud800" * 100_000,
    ],
)
def test_hostile_answers_take_no_longer_than_their_length_asks_for(answer):
    row = read_countdown(puzzle())
    start = time.process_time()

    score = grade_countdown(row, answer)

    assert 0 <= score.reward <= 1.1
    assert time.process_time() - start < 1  # quadratic time would be minutes


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_file_form_is_read_from_a_data_folder(split):
    rows = read_split(COUNTDOWN, split, FILES)

    assert len(rows) == len((FILES / f"countdown.{split}.jsonl").read_text().splitlines())
    assert [row.id for row in rows] == [str(number) for number in range(len(rows))]
    for row in rows:
        assert (
            row.questions[0].reference is None
            or grade_countdown(row, row.questions[0].reference).reward == 1.1
        )


def test_rows_whose_solution_is_null_or_wrong_have_no_reference():
    rows = read_split(COUNTDOWN, "test", FILES)

    assert [row.questions[0].reference is None for row in rows] == [
        True,
        False,
        False,
        False,
        True,
        True,
    ]


def test_the_hub_form_is_read_from_a_data_folder():
    rows = read_split(COUNTDOWN_3TO4, "train", FILES)

    assert [row.facts["numbers"] for row in rows] == [
        (30, 13, 9),
        (8, 3, 3, 8),
        (4, 10, 85),
        (12, 24, 1),
    ]
    assert {row.questions[0].reference for row in rows} == {None}


def test_a_wrong_row_is_named_with_its_file_and_line(tmp_path):
    text = json.dumps(puzzle()) + "\n" + json.dumps(puzzle(target="ten")) + "\n"
    (tmp_path / "countdown.train.jsonl").write_text(text, encoding="utf-8")

    with pytest.raises(
        TaskError, match=r"countdown\.train\.jsonl line 2: column target is 'ten'"
    ) as caught:
        read_split(COUNTDOWN, "train", tmp_path)

    assert "leave --data-dir out" in caught.value.hint


def test_puzzles_are_generated_where_no_folder_is_named():
    source = row_source(COUNTDOWN)

    assert source.where("train") == "generated countdown puzzles, train"
    assert all(source.has(split) for split in ("train", "validation", "test"))


def test_the_two_tasks():
    assert (COUNTDOWN.name, COUNTDOWN.file, COUNTDOWN.hub) == ("countdown", "countdown", None)
    assert COUNTDOWN_3TO4.name == "countdown-3to4"
    assert COUNTDOWN_3TO4.file == "countdown_tasks_3to4"
    assert COUNTDOWN_3TO4.hub.id == "Jiayi-Pan/Countdown-Tasks-3to4"
    for task in (COUNTDOWN, COUNTDOWN_3TO4):
        assert (task.scoring, task.scorings) == ("generate", ("generate",))
        assert (task.max_new_tokens, task.max_reward) == (1024, 1.1)


@pytest.mark.parametrize(
    ("task", "split", "rows", "references"),
    [
        (COUNTDOWN, "train", 200, 200),
        (COUNTDOWN, "test", 1700, 1672),  # 16 solutions are null, 12 are wrong
        (COUNTDOWN_3TO4, "train", 1863, 0),
    ],
)
def test_every_row_of_the_published_files_is_read(data_dir, task, split, rows, references):
    read = read_split(task, split, data_dir)

    written = [row for row in read if row.questions[0].reference is not None]
    assert len(read) == rows
    assert len(written) == references
    assert all(task.grade(row, [row.questions[0].reference]).reward == 1.1 for row in written)


def test_published_solutions_are_right_but_for_the_known_wrong_ones(data_dir):
    file = data_dir / "countdown.test.jsonl"
    wrong = set()
    for line in file.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        if raw["solution"] is None:
            continue

        score = grade_countdown(read_countdown(raw), f"<answer>{raw['solution']}</answer>")

        if not score.correct:
            wrong.add(raw["id"])
    assert wrong == {281, 429, 566, 640, 798, 800, 1085, 1178, 1340, 1560, 1847, 1984}
