from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.tasks.benchmarks.answers import grade_gsm8k, read_gsm8k, read_trivia_qa
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split

FILES = Path(__file__).parents[1] / "files"
RIGHT_IN_FORM = ["3 * 360 = 1080\n#### 1080", "#### $1,080.00", "  ####  1080  ", "#### 1080.\r\n"]
RIGHT_IN_FORM += [
    "#### 2160/2",
    "#### 1080 pens",
    "#### ١٠٨٠",
    "#### 1.08e3",
    "#### 7\nNo, that was wrong.\n#### 1080",
]
RIGHT_IN_FORM += ["#### 1080\nThat is 90 dozen.", "#### 1080\n#### so many"]
RIGHT_WITHOUT_FORM = ["1080", "The answer is $1,080.", "3 * 360 = 1080", "So #### 1080", "####1080"]
RIGHT_WITHOUT_FORM += ["##### 1080", "**#### 1080**", "####\n1080"]
RIGHT_WITHOUT_FORM += [r"\boxed{1080}"]
WRONG_IN_FORM = ["It is 1080.\n#### 7", "#### 1080\n#### 7", "#### -1080", "#### 10800"]
WRONG_IN_FORM += ["#### 1080.5", "1080\n#### 0"]
WRONG_WITHOUT_FORM = ["", "#### ", "#### eighty", "1, 080", "1080 is less than 2000", "#### 1080/0"]
WRONG_WITHOUT_FORM += ["#### " + "9" * 100_000, "#### 1e999999999", "\ud800"]
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
SHORT = "\n\nReply with the answer alone, in a few words."


@given(number=st.integers(-(10**12), 10**12))
def test_a_number_is_right_however_its_thousands_are_separated(number):
    for written in (f"{number}", f"{number:,}"):
        row = read_gsm8k({"question": "How many?", "answer": f"All of them.\n#### {written}"})

        assert row.answer == f"{number}"
        assert grade_gsm8k(row, f"#### {number}").reward == 1.1
        assert grade_gsm8k(row, f"It is {number:,}.").reward == 1.0
        assert grade_gsm8k(row, f"#### {number + 1:,}").reward == 0.1


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
    ("name", "split", "number", "asked", "reference", "accepted"),
    [
        (
            "gsm8k",
            "train",
            1,
            "A van carries 45 crates of 24 bottles. How many bottles is that?\n\n"
            "Work it out step by step. "
            'Then end with a line that holds "#### " and the number alone.',
            "It carries 45*24 = 1,080 bottles.\n#### 1080",
            (),
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
            (),
        ),
        (
            "nq-open",
            "validation",
            0,
            "when was the mill in bergby built" + SHORT,
            "14 May 1902",
            ("1902",),
        ),
        (
            "trivia-qa",
            "train",
            0,
            "Which harbour town has a lighthouse of red brick?" + SHORT,
            "Berghavn",
            ("BERGHAVN", "Berghavn, Norland"),
        ),
    ],
)
def test_a_row_asks_for_the_form_and_its_reference_has_it(
    name, split, number, asked, reference, accepted
):
    row = read_split(get_task(name), split, FILES)[number]

    (question,) = row.questions
    assert question.messages == ({"role": "user", "content": asked},)
    assert (question.reference, question.opening, row.accepted) == (reference, "", accepted)


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


@pytest.mark.parametrize(
    ("value", "aliases", "reference"),
    [
        ("DIEPPE", ["Dieppe, France", "DIEPPE", "Dieppe"], "Dieppe"),
        ("THE EYELID", ["Lid", "Eyelid"], "Eyelid"),
        ("THE EYELID", ["Eyelid", "The Eyelid"], "The Eyelid"),
        ("OBOE", ["Oboes"], "OBOE"),
        ("USA", ["Usa"], "USA"),
        ("Dieppe", ["dieppe"], "Dieppe"),
        (" 1972 ", ["1972"], "1972"),
    ],
)
def test_a_value_in_capitals_gives_way_to_an_alias_that_is_not(value, aliases, reference):
    answer = {"value": value, "aliases": aliases}

    row = read_trivia_qa({"question": "Who?", "question_id": "q1", "answer": answer})

    assert row.questions[0].reference == row.answer == reference
    assert {row.answer, *row.accepted} == {value.strip(), *aliases}


@pytest.mark.parametrize(
    ("answer", "reward", "correct"),
    [
        ("  Paris\n", 1.0, True),
        ("The capital is PARIS.", 0.84, True),
        ("", 0.95, False),
        ("x" * 105, 0.0, False),
        ("x" * 1000, 0.0, False),
        ("é" * 5, 1.0, False),
        ("comparison", 0.95, False),
    ],
)
def test_conciseness_takes_a_hundredth_for_each_character_of_difference(answer, reward, correct):
    task = get_task("conciseness")

    grade = task.grade(task.read({"prompt": "Q?", "answer": "Paris"}), [answer])

    assert (grade.reward, grade.correct) == (pytest.approx(reward, abs=1e-12), correct)


def test_the_shipped_rows_are_all_different_and_short_and_do_not_hold_their_answer():
    task = get_task("conciseness")
    splits = {split: read_split(task, split) for split in task.splits}
    rows = [row for split in splits.values() for row in split]

    assert [len(rows) for rows in splits.values()] == [220, 220, 200]
    assert len({row.key for row in rows}) == len({row.id for row in rows}) == len(rows)
    assert all(len(row.answer) <= 24 and len(row.answer.split()) <= 3 for row in rows)
    for row in rows:
        assert not task.grade(row, [row.questions[0].messages[0]["content"]]).correct
