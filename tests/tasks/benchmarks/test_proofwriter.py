from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.errors import TaskError
from esft.tasks.benchmarks.proofwriter import (
    ANSWERS,
    PROOFWRITER,
    grade_proofwriter,
    read_proofwriter,
)
from esft.tasks.rows import read_split

FILES = Path(__file__).parents[1] / "files"

RIGHT_IN_FORM = [
    "Answer: False",
    " Answer: False \n",
    "Answer: False.",
    "**Answer: False**",
    "Mia is calm.\nAnswer: False\r\n",
    "Therefore, Answer: False",
    "Answer: True\nNo, that was wrong.\nAnswer: False",
    "Answer: False\n\nMia is calm since she is kind, so True is wrong.",
    "Answer: False\nTrue",
    "Answer: False\nAnswer: True or Unknown",
]
RIGHT_WITHOUT_FORM = [
    "False",
    "false",
    " FALSE.\n",
    "**False**",
    "answer: False",
    "Answer: false",
    "Answer:False",
    "Answer:  False",
    "Answer: **False**",
    "Answer:\tFalse",
    "Answer - False!",
    "It does not follow.\nFalse",
    "False\n\nMia is calm.",
    "True\nFalse",
]
WRONG_IN_FORM = [
    "Answer: True",
    "Answer: Unknown",
    "Answer: False\nAnswer: True",
    "False\nAnswer: Unknown.",
]
WRONG_WITHOUT_FORM = [
    "",
    "\n",
    "Answer:",
    "Answer:\nor so",
    "true",
    "Unknown",
    "Answer: falsehood",
    "Answer: Falsely",
    "MyAnswer: False",
    "Answer: False or True",
    "Answer: True, Answer: False or Answer: Unknown are the answers",
    "The statement is False, or so it seems",
    "not False",
    "F",
    "0",
    "\0",
    "\ud800",
]
PIECES = ["Answer: True", "Answer: False\n", "Answer: ", "answer", "True", "\n", " ", "*", "_", "x"]


def a_row(answer="False"):
    return read_proofwriter({"theory": "Mia is kind.", "question": "Mia is.", "answer": answer})


@pytest.mark.parametrize(
    ("answers", "reward", "correct"),
    [
        (RIGHT_IN_FORM, 1.1, True),
        (RIGHT_WITHOUT_FORM, 1.0, True),
        (WRONG_IN_FORM, 0.1, False),
        (WRONG_WITHOUT_FORM, 0.0, False),
    ],
    ids=["right, in form", "right, no form", "wrong, in form", "wrong, no form"],
)
def test_an_answer_is_worth_1_where_it_is_right_and_a_tenth_for_its_form(answers, reward, correct):
    for answer in answers:
        score = grade_proofwriter(a_row(), answer)

        assert (score.reward, score.correct, score.failure) == (reward, correct, None), answer


@pytest.mark.parametrize("right", ANSWERS)
@pytest.mark.parametrize("said", ANSWERS)
def test_of_the_three_words_one_is_right(said, right):
    formed = grade_proofwriter(a_row(right), f"Answer: {said}")
    bare = grade_proofwriter(a_row(right), said.lower())

    assert (formed.correct, bare.correct) == (said == right, said == right)
    assert (formed.reward, bare.reward) == ((1.1, 1.0) if said == right else (0.1, 0.0))


@given(
    answer=st.text()
    | st.lists(st.sampled_from(["Answer", ":", " ", "True", "False", "unknown", "\n", "*"])).map(
        "".join
    )
)
def test_any_answer_gets_a_reward_from_0_to_the_largest(answer):
    score = grade_proofwriter(a_row(), answer)

    assert score.reward in (0.0, 0.1, 1.0, 1.1)
    assert (score.reward >= 1) is score.correct


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("end", ["", "x", "\nAnswer: False", "False"])
def test_100_kb_of_anything_are_graded(piece, end):
    score = grade_proofwriter(a_row(), piece * (100_000 // len(piece)) + end)

    assert 0 <= score.reward <= PROOFWRITER.max_reward


def test_a_row_asks_for_the_form_and_its_reference_has_it():
    row = read_split(PROOFWRITER, "train", FILES)[0]

    assert row.questions[0].messages == (
        {
            "role": "user",
            "content": "Facts and rules:\n"
            "Mia is kind. Otto is rough. If something is kind then it is calm.\n\n"
            "Statement: Mia is calm.\n\n"
            "Does the statement follow from the facts and rules (True), does its opposite (False), "
            'or neither of the two (Unknown)? End with a line that says "Answer: True", '
            '"Answer: False" or "Answer: Unknown".',
        },
    )
    assert (row.id, row.answer, row.questions[0].reference) == (
        "Made-OWA-D1-1",
        "True",
        "Answer: True",
    )
    assert row.questions[0].opening == ""
    assert row.options == ()


def test_the_rows_of_small_files():
    rows = [row for split in ("train", "test") for row in read_split(PROOFWRITER, split, FILES)]

    assert [row.answer for row in rows] == ["True", "False", "Unknown", "True", "Unknown", "False"]
    assert len({row.key for row in rows}) == 6
    for row in rows:
        assert (
            grade_proofwriter(row, row.questions[0].reference).reward
            == PROOFWRITER.max_reward
            == 1.1
        )


def test_a_row_without_an_id_is_named_by_what_it_asks():
    theory = {"theory": "Mia is kind.", "answer": "True"}
    one, again, other = (
        read_proofwriter({**theory, "question": question})
        for question in ("Mia is kind.", "Mia is kind.", "Mia is calm.")
    )

    assert one.id.startswith("proofwriter-")
    assert one.id == again.id != other.id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "Maybe"}, "column answer is 'Maybe', expected one of True, False, Unknown"),
        ({"answer": "true"}, "column answer is 'true', expected one of True, False, Unknown"),
        ({"answer": True}, "column answer is True, expected a text"),
        ({"answer": None}, "column answer is None, expected a text"),
        ({"theory": ""}, "column theory is '', expected a text"),
        ({"question": 4}, "column question is 4, expected a text"),
        ({"id": 4}, "column id is 4, expected a text"),
    ],
)
def test_a_wrong_row_is_refused_with_column_value_and_what_was_expected(changes, message):
    raw = {"theory": "Mia is kind.", "question": "Mia is calm.", "answer": "True"}

    with pytest.raises(TaskError, match=message):
        read_proofwriter({**raw, **changes})


def test_a_row_without_theory_is_refused_with_the_columns_it_has():
    with pytest.raises(TaskError, match="column theory is missing, the row has: question, answer"):
        read_proofwriter({"question": "Mia is calm.", "answer": "True"})


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_reference_of_the_published_files_gets_the_largest_reward(data_dir, split):
    lines = (data_dir / f"proofwriter.{split}.jsonl").read_bytes().count(b"\n")

    rows = read_split(PROOFWRITER, split, data_dir)

    assert len(rows) == lines
    assert {row.answer for row in rows} == set(ANSWERS)
    rewards = {grade_proofwriter(row, row.questions[0].reference).reward for row in rows}
    assert rewards == {PROOFWRITER.max_reward}


def test_the_task():
    assert (PROOFWRITER.hub.id, PROOFWRITER.hub.config) == ("tasksource/proofwriter", None)
    assert PROOFWRITER.file == "proofwriter"
    assert (PROOFWRITER.scoring, PROOFWRITER.scorings) == ("generate", ("generate",))
    assert (PROOFWRITER.max_new_tokens, PROOFWRITER.max_reward) == (256, 1.1)
