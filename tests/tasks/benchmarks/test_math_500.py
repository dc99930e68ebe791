import os
from pathlib import Path

import pytest

from esft.errors import TaskError
from esft.tasks.benchmarks.math_500 import MATH_500, read_math_500
from esft.tasks.rows import read_split

FILES = Path(__file__).parents[1] / "files"


def an_object(**changes):
    row = {
        "problem": "What is $2 + 3$?",
        "solution": "We have $2 + 3 = \\boxed{5}$.",
        "answer": "5",
        "subject": "Prealgebra",
        "level": 1,
        "unique_id": "test/prealgebra/1.json",
    }
    return {**row, **changes}


def test_a_row_asks_for_the_answer_in_a_box_and_has_its_solution_as_reference():
    row = read_math_500(an_object())

    assert row.id == "test/prealgebra/1.json"
    assert row.questions[0].messages == (
        {
            "role": "user",
            "content": "What is $2 + 3$?\n\n"
            "Work it out step by step, and end with the answer in \\boxed{}.",
        },
    )
    assert row.answer == "5"
    assert row.questions[0].reference == "We have $2 + 3 = \\boxed{5}$."


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (an_object(problem=None), "column problem is None, expected a text"),
        (an_object(answer=5), "column answer is 5, expected a text"),
        (an_object(solution=" "), "column solution is ' ', expected a text"),
        (an_object(unique_id=7), "column unique_id is 7, expected a text"),
        ({"question": "Q?"}, "column problem is missing, the row has: question"),
    ],
)
def test_a_wrong_row_is_refused_with_column_value_and_what_was_expected(raw, message):
    with pytest.raises(TaskError, match=message):
        read_math_500(raw)


def test_the_small_file_is_read_and_its_solutions_are_right():
    pytest.importorskip("math_verify")

    rows = read_split(MATH_500, "test", FILES)

    assert len(rows) == 5
    assert [
        row.id for row in rows if not MATH_500.grade(row, [row.questions[0].reference]).correct
    ] == []
    assert not MATH_500.grade(rows[0], [rows[1].questions[0].reference]).correct


def test_the_rows_of_the_hub_are_read_and_their_solutions_are_right():
    folder = os.environ.get("ESFT_DATA_DIR")
    if folder is None:
        pytest.skip("ESFT_DATA_DIR is not set: no folder with rows of public benchmarks")
    pytest.importorskip("math_verify")

    rows = read_split(MATH_500, "test", Path(folder))

    assert len(rows) >= 400
    assert [
        row.id for row in rows if not MATH_500.grade(row, [row.questions[0].reference]).correct
    ] == []
