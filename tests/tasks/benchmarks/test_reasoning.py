from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.tasks.benchmarks.reasoning import (
    ANSWERS,
    grade_gsm8k,
    grade_proofwriter,
    read_gsm8k,
    read_proofwriter,
)
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split

FILES = Path(__file__).parents[1] / "files"
RIGHT_IN_FORM = [
    "3 * 360 = 1080\n#### 1080",
    "#### $1,080.00",
    "  ####  1080  ",
    "#### 1080.\r\n",
    "#### 2160/2",
    "#### 1.08e3",
    "#### 7\nNo, that was wrong.\n#### 1080",
    "#### 1080\nThat is 90 dozen.",
    "#### 1080\n#### so many",
]
RIGHT_WITHOUT_FORM = [
    "1080",
    "The answer is $1,080.",
    "3 * 360 = 1080",
    "So #### 1080",
    "####1080",
    "##### 1080",
    "**#### 1080**",
    "#### 1080 pens",
    "####\n1080",
    r"\boxed{1080}",
]
WRONG_IN_FORM = [
    "It is 1080.\n#### 7",
    "#### 1080\n#### 7",
    "#### -1080",
    "#### 10800",
    "#### 1080.5",
    "1080\n#### 0",
]
WRONG_WITHOUT_FORM = [
    "",
    "#### ",
    "#### eighty",
    "1, 080",
    "1080 is less than 2000",
    "#### 1080/0",
    "#### " + "9" * 100_000,
    "#### 1e999999999",
    "#### ١٠٨٠",
    "\ud800",
]


def gsm8k_row(number="1,080"):
    return read_gsm8k({"question": "How many?", "answer": f"All of them.\n#### {number}"})


@pytest.mark.parametrize(
    ("answers", "worth"),
    [
        pytest.param(RIGHT_IN_FORM, (1.1, True), id="right, in form"),
        pytest.param(RIGHT_WITHOUT_FORM, (1.0, True), id="right, no form"),
        pytest.param(WRONG_IN_FORM, (0.1, False), id="wrong, in form"),
        pytest.param(WRONG_WITHOUT_FORM, (0.0, False), id="wrong, no form"),
    ],
)
def test_gsm8k_gives_1_where_the_number_is_right_and_a_tenth_for_the_form(answers, worth):
    for answer in answers:
        grade = grade_gsm8k(gsm8k_row(), answer)

        assert (grade.reward, grade.correct) == worth, answer


@given(number=st.integers(-(10**12), 10**12))
def test_a_number_is_right_however_its_thousands_are_separated(number):
    for written in (f"{number}", f"{number:,}"):
        row = gsm8k_row(written)

        assert row.answer == f"{number}"
        assert grade_gsm8k(row, f"#### {number}").reward == 1.1
        assert grade_gsm8k(row, f"It is {number:,}.").reward == 1.0
        assert grade_gsm8k(row, f"#### {number + 1:,}").reward == 0.1


FORMED = [
    " Answer: False \n",
    "Answer: False.",
    "**Answer: False**",
    "Mia is calm.\nAnswer: False\r\n",
    "Therefore, Answer: False",
    "Answer: True\nNo, that was wrong.\nAnswer: False",
    "Answer: False\nTrue",
    "Answer: False\nAnswer: True or Unknown",
]
BARE = [
    "False",
    " FALSE.\n",
    "**False**",
    "answer: False",
    "Answer: false",
    "Answer:  False",
    "Answer: **False**",
    "Answer - False!",
    "It does not follow.\nFalse",
    "True\nFalse",
]
FORMED_WRONGLY = ["Answer: True", "Answer: Unknown", "Answer: False\nAnswer: True"]
NEITHER = [
    "",
    "Answer:\nor so",
    "true",
    "Answer: falsehood",
    "MyAnswer: False",
    "Answer: False or True",
    "Answer: True, Answer: False or Answer: Unknown are the answers",
    "The statement is False, or so it seems",
    "not False",
    "F",
    "\ud800",
]


def proofwriter_row(answer="False"):
    return read_proofwriter({"theory": "Mia is kind.", "question": "Mia is.", "answer": answer})


@pytest.mark.parametrize(
    ("answers", "worth"),
    [
        pytest.param(FORMED, (1.1, True), id="right, in form"),
        pytest.param(BARE, (1.0, True), id="right, no form"),
        pytest.param(FORMED_WRONGLY, (0.1, False), id="wrong, in form"),
        pytest.param(NEITHER, (0.0, False), id="wrong, no form"),
    ],
)
def test_proofwriter_gives_1_where_the_word_is_right_and_a_tenth_for_the_form(answers, worth):
    for answer in answers:
        grade = grade_proofwriter(proofwriter_row(), answer)

        assert (grade.reward, grade.correct) == worth, answer


@pytest.mark.parametrize("right", ANSWERS)
@pytest.mark.parametrize("said", ANSWERS)
def test_of_the_three_words_one_is_right(said, right):
    formed = grade_proofwriter(proofwriter_row(right), f"Answer: {said}")
    bare = grade_proofwriter(proofwriter_row(right), said.lower())

    assert (formed.reward, bare.reward) == ((1.1, 1.0) if said == right else (0.1, 0.0))


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


def test_a_row_of_proofwriter_without_an_id_is_named_by_what_it_asks():
    kind, again, calm = (
        read_proofwriter({"theory": "Mia is kind.", "answer": "True", "question": question})
        for question in ("Mia is kind.", "Mia is kind.", "Mia is calm.")
    )

    assert kind.id.startswith("proofwriter-")
    assert kind.id == again.id != calm.id
