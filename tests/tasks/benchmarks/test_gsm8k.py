from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.errors import TaskError
from esft.tasks.benchmarks.gsm8k import GSM8K, grade_gsm8k, read_gsm8k
from esft.tasks.rows import read_split

FILES = Path(__file__).parents[1] / "files"

RIGHT_IN_FORM = [
    "3 * 360 = 1080\n#### 1080",
    "#### 1080",
    "#### 1,080",
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
    "The answer is 1,080.",
    "The answer is $1080",
    "3 * 360 = 1080",
    "So #### 1080",
    "####1080",
    "##### 1080",
    "### 1080",
    "**#### 1080**",
    "#### 1080 pens",
    "####\n1080",
    r"\boxed{1080}",
]
WRONG_IN_FORM = [
    "#### 7",
    "It is 1080.\n#### 7",
    "#### 1080\n#### 7",
    "#### -1080",
    "#### 10800",
    "#### 1080.5",
    "1080\n#### 0",
]
WRONG_WITHOUT_FORM = [
    "",
    " \n",
    "####",
    "#### ",
    "#### eighty",
    "none",
    "1, 080",
    "1080 is less than 2000",
    "#### 1080/0",
    "#### " + "9" * 100_000,
    "#### 1e999999999",
    "#### ١٠٨٠",
    "\0",
    "\ud800",
]
PIECES = ["#### 1\n", "####", "#### ", "\n", " ", "\t", "9", "1,", "1,111,", "1/", "1e9", "-", "<<"]


def a_row(number="1,080"):
    return read_gsm8k({"question": "How many?", "answer": f"All of them.\n#### {number}"})


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
        score = grade_gsm8k(a_row(), answer)

        assert (score.reward, score.correct, score.failure) == (reward, correct, None), answer


@given(answer=st.text() | st.text("#1080, .\n$-/e"))
def test_any_answer_gets_a_reward_from_0_to_the_largest(answer):
    score = grade_gsm8k(a_row(), answer)

    assert score.reward in (0.0, 0.1, 1.0, 1.1)
    assert (score.reward >= 1) is score.correct


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("end", ["", "x", "\n#### 1080", ".5"])
def test_100_kb_of_anything_are_graded(piece, end):
    score = grade_gsm8k(a_row(), piece * (100_000 // len(piece)) + end)

    assert 0 <= score.reward <= GSM8K.max_reward


@given(number=st.integers(-(10**12), 10**12))
def test_a_number_is_right_however_its_thousands_are_separated(number):
    for written in (f"{number}", f"{number:,}"):
        row = a_row(written)

        assert row.answer == f"{number}"
        assert grade_gsm8k(row, f"#### {number}").reward == 1.1
        assert grade_gsm8k(row, f"It is {number:,}.").reward == 1.0
        assert grade_gsm8k(row, f"#### {number + 1:,}").reward == 0.1


def test_a_row_asks_for_the_form_and_its_reference_has_it():
    row = read_split(GSM8K, "train", FILES)[1]

    assert row.questions[0].messages == (
        {
            "role": "user",
            "content": "A van carries 45 crates of 24 bottles. How many bottles is that?\n\n"
            "Work it out step by step. "
            'Then end with a line that holds "#### " and the number alone.',
        },
    )
    assert row.answer == "1080"
    assert row.questions[0].reference == "It carries 45*24 = 1,080 bottles.\n#### 1080"
    assert row.questions[0].opening == ""
    assert row.options == ()


def test_the_rows_of_small_files():
    train, test = (read_split(GSM8K, split, FILES) for split in ("train", "test"))

    assert [row.answer for row in train] == ["30", "1080", "-5", "4.50"]
    assert [row.answer for row in test] == ["98", "1250000", "45"]
    assert "\u2028How cold" in train[2].messages[0]["content"]
    assert test[2].reference == "#### 45"
    assert len({row.id for row in train + test}) == 7
    for row in train + test:
        assert grade_gsm8k(row, row.questions[0].reference).reward == GSM8K.max_reward == 1.1
        assert "<<" not in row.questions[0].reference


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"question": "Q?"}, "column answer is missing, the row has: question"),
        ({"question": None, "answer": "#### 1"}, "column question is None, expected a text"),
        ({"question": "Q?", "answer": 18}, "column answer is 18, expected a text"),
        ({"question": "Q?", "answer": ""}, "column answer is '', expected a text"),
        ({"question": "Q?", "answer": "It is 18."}, "answer is 'It is 18.', expected a solution"),
        ({"question": "Q?", "answer": "#### many"}, "expected a solution whose last line is ####"),
        ({"question": "Q?", "answer": "#### 1\nor 2"}, "expected a solution whose last line is"),
        ({"question": "Q?", "answer": "#### 1,08"}, "expected a solution whose last line is"),
    ],
)
def test_a_wrong_row_is_refused_with_column_value_and_what_was_expected(raw, message):
    with pytest.raises(TaskError, match=message):
        read_gsm8k(raw)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_reference_of_the_published_files_gets_the_largest_reward(data_dir, split):
    lines = (data_dir / f"gsm8k.{split}.jsonl").read_bytes().count(b"\n")

    rows = read_split(GSM8K, split, data_dir)

    assert len(rows) == lines
    assert {grade_gsm8k(row, row.questions[0].reference).reward for row in rows} == {
        GSM8K.max_reward
    }
    assert not any("<<" in row.questions[0].reference or "," in row.answer for row in rows)


def test_the_task():
    assert (GSM8K.hub.id, GSM8K.hub.config, GSM8K.file) == ("openai/gsm8k", "main", "gsm8k")
    assert (GSM8K.scoring, GSM8K.scorings) == ("generate", ("generate",))
    assert (GSM8K.max_new_tokens, GSM8K.max_reward) == (256, 1.1)
