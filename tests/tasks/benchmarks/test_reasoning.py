from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.tasks.benchmarks.reasoning import grade_gsm8k, read_gsm8k
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split

FILES = Path(__file__).parents[1] / "files"
RIGHT_IN_FORM = ["3 * 360 = 1080\n#### 1080", "#### $1,080.00", "  ####  1080  ", "#### 1080.\r\n"]
RIGHT_IN_FORM += ["#### 2160/2", "#### 1.08e3", "#### 7\nNo, that was wrong.\n#### 1080"]
RIGHT_IN_FORM += ["#### 1080\nThat is 90 dozen.", "#### 1080\n#### so many"]
RIGHT_WITHOUT_FORM = ["1080", "The answer is $1,080.", "3 * 360 = 1080", "So #### 1080", "####1080"]
RIGHT_WITHOUT_FORM += ["##### 1080", "**#### 1080**", "#### 1080 pens", "####\n1080"]
RIGHT_WITHOUT_FORM += [r"\boxed{1080}"]
WRONG_IN_FORM = ["It is 1080.\n#### 7", "#### 1080\n#### 7", "#### -1080", "#### 10800"]
WRONG_IN_FORM += ["#### 1080.5", "1080\n#### 0"]
WRONG_WITHOUT_FORM = ["", "#### ", "#### eighty", "1, 080", "1080 is less than 2000", "#### 1080/0"]
WRONG_WITHOUT_FORM += ["#### " + "9" * 100_000, "#### 1e999999999", "#### ١٠٨٠", "\ud800"]


@given(number=st.integers(-(10**12), 10**12))
def test_a_number_is_right_however_its_thousands_are_separated(number):
    for written in (f"{number}", f"{number:,}"):
        row = read_gsm8k({"question": "How many?", "answer": f"All of them.\n#### {written}"})

        assert row.answer == f"{number}"
        assert grade_gsm8k(row, f"#### {number}").reward == 1.1
        assert grade_gsm8k(row, f"It is {number:,}.").reward == 1.0
        assert grade_gsm8k(row, f"#### {number + 1:,}").reward == 0.1


FORMED = [" Answer: False \n", "Answer: False.", "**Answer: False**"]
FORMED += ["Mia is calm.\nAnswer: False\r\n", "Therefore, Answer: False"]
FORMED += ["Answer: True\nNo, that was wrong.\nAnswer: False", "Answer: False\nTrue"]
FORMED += ["Answer: False\nAnswer: True or Unknown"]
BARE = ["False", " FALSE.\n", "**False**", "answer: False", "Answer: false", "Answer:  False"]
BARE += ["Answer: **False**", "Answer - False!", "It does not follow.\nFalse", "True\nFalse"]
FORMED_WRONGLY = ["Answer: True", "Answer: Unknown", "Answer: False\nAnswer: True"]
NEITHER = ["", "Answer:\nor so", "true", "Answer: falsehood", "MyAnswer: False"]
NEITHER += ["Answer: False or True"]
NEITHER += ["Answer: True, Answer: False or Answer: Unknown are the answers"]
NEITHER += ["The statement is False, or so it seems", "not False", "F", "\ud800"]


ROWS = {
    "gsm8k": {"question": "How many?", "answer": "All of them.\n#### 1,080"},
    "proofwriter": {"theory": "Mia is kind.", "question": "Mia is.", "answer": "False"},
}


@pytest.mark.parametrize(
    ("name", "answers", "worth"),
    [
        ("gsm8k", RIGHT_IN_FORM, (1.1, True)),
        ("gsm8k", RIGHT_WITHOUT_FORM, (1.0, True)),
        ("gsm8k", WRONG_IN_FORM, (0.1, False)),
        ("gsm8k", WRONG_WITHOUT_FORM, (0.0, False)),
        ("proofwriter", FORMED, (1.1, True)),
        ("proofwriter", BARE, (1.0, True)),
        ("proofwriter", FORMED_WRONGLY, (0.1, False)),
        ("proofwriter", NEITHER, (0.0, False)),
    ],
)
def test_right_answers_are_worth_1_and_those_in_form_a_tenth_more(name, answers, worth):
    task = get_task(name)
    for answer in answers:
        grade = task.grade(task.read(ROWS[name]), [answer])

        assert (grade.reward, grade.correct) == worth, answer


@pytest.mark.parametrize(
    ("name", "split", "row", "asked", "reference"),
    [
        (
            "gsm8k",
            "train",
            1,
            "A van carries 45 crates of 24 bottles. How many bottles is that?\n\n"
            "Work it out step by step. "
            'Then end with a line that holds "#### " and the number alone.',
            "It carries 45*24 = 1,080 bottles.\n#### 1080",
        ),
        (
            "proofwriter",
            "train",
            0,
            "Facts and rules:\nMia is kind. Otto is rough. If something is kind then it is calm."
            "\n\nStatement: Mia is calm.\n\nDoes the statement follow from the facts and rules "
            "(True), does its opposite (False), or neither of the two (Unknown)? End with a line "
            'that says "Answer: True", "Answer: False" or "Answer: Unknown".',
            "Answer: True",
        ),
    ],
)
def test_a_row_asks_for_the_form_and_its_reference_has_it(name, split, row, asked, reference):
    (question,) = read_split(get_task(name), split, FILES)[row].questions

    assert question.messages == ({"role": "user", "content": asked},)
    assert (question.reference, question.opening) == (reference, "")


def test_math_500_asks_for_the_answer_in_a_box():
    raw = {"problem": "What is $2 + 3$?", "solution": "$\\boxed{5}$", "answer": "5"}

    row = get_task("math-500").read({**raw, "unique_id": "test/1.json"})

    assert row.questions[0].messages[0]["content"] == (
        "What is $2 + 3$?\n\nWork it out step by step, and end with the answer in \\boxed{}."
    )
    assert (row.id, row.answer, row.questions[0].reference) == ("test/1.json", "5", "$\\boxed{5}$")


def test_answers_of_gsm8k_lose_their_separators_and_calculations():
    rows = [
        row for split in ("train", "test") for row in read_split(get_task("gsm8k"), split, FILES)
    ]

    answers = ["30", "1080", "-5", "4.50", "98", "1250000", "45"]
    assert [row.answer for row in rows] == answers
    assert "\u2028How cold" in rows[2].questions[0].messages[0]["content"]
    assert not any("<<" in row.questions[0].reference for row in rows)
