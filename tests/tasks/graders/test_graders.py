import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.errors import TaskError
from esft.recipe.settings import GRADERS as RECIPE_GRADERS
from esft.tasks.graders.by_name import (
    GRADERS,
    grade_contains,
    grade_exact,
    grade_number,
    named_grader,
)
from esft.tasks.task import Question, Row

PURE = {"exact": grade_exact, "contains": grade_contains, "number": grade_number}


def row_of(answer, *accepted):
    message = {"role": "user", "content": "Q?"}
    return Row(id="r", questions=(Question(messages=(message,)),), answer=answer, accepted=accepted)


@pytest.mark.parametrize(
    ("right", "answer", "correct"),
    [
        ("Paris", "Paris", True),
        ("Paris", " \n paris\t", True),
        ("New York", "new \n  york", True),
        ("Straße", "STRASSE", True),
        ("Paris", "Paris.", False),
        ("Paris", "It is Paris", False),
        ("New York", "NewYork", False),
        ("Paris", "", False),
    ],
)
def test_exact_is_the_whole_text_but_for_case_and_space(right, answer, correct):
    assert grade_exact(row_of(right), answer).correct is correct


@pytest.mark.parametrize(
    ("right", "answer", "correct"),
    [
        ("Paris", "The capital is PARIS.", True),
        ("New York", "in New\n York, of course", True),
        ("8", "3 + 5 = 8", True),
        ("C++", "C++ it is", True),
        ("Paris", "Parisian", False),
        ("8", "18", False),
        ("8", "8.5", False),
        ("New York", "New Jersey, not York", False),
        ("Paris", "", False),
    ],
)
def test_contains_is_whole_words_anywhere(right, answer, correct):
    assert grade_contains(row_of(right), answer).correct is correct


@pytest.mark.parametrize(
    ("right", "answer", "correct"),
    [
        ("1080", "1,080", True),
        ("1,080", "So 3 * 360 = 1080.", True),
        ("0.5", "1/2", True),
        ("18", "$18", True),
        ("-3", "it is -3", True),
        ("18", "18 and then 19", False),
        ("18", "18.01", False),
        ("0.1", "0.10000000000000001", False),
        ("18", "none", False),
        ("18", "", False),
    ],
)
def test_number_is_the_last_number_exactly(right, answer, correct):
    assert grade_number(row_of(right), answer).correct is correct


@pytest.mark.parametrize("grade", PURE.values(), ids=PURE)
def test_each_accepted_answer_counts(grade):
    row = row_of("5", "6", "7")

    assert [grade(row, text).correct for text in ("5", "6", "7", "8")] == [True, True, True, False]


@pytest.mark.parametrize("grade", PURE.values(), ids=PURE)
@given(right=st.integers(-(10**12), 10**12).map(str))
def test_the_right_answer_itself_is_worth_1(grade, right):
    assert grade(row_of(right), right).reward == 1.0


@pytest.mark.parametrize("grade", PURE.values(), ids=PURE)
@given(answer=st.text(), right=st.text(min_size=1).filter(str.strip))
def test_any_answer_gets_0_or_1(grade, answer, right):
    score = grade(row_of(right), answer)

    assert score.reward == float(score.correct)
    assert score.failure is None


@pytest.mark.parametrize("grade", PURE.values(), ids=PURE)
@pytest.mark.parametrize(
    "answer",
    [
        "9" * 100_000,
        "1," * 50_000,
        "a " * 50_000,
        " " * 100_000,
        "-" * 100_000,
        "1e999999999",
        "(",
        "9^" * 50_000,
        "1/" * 50_000,
        "\ud800" * 100_000,
        "." * 100_000,
        "a a b" * 20_000,
    ],
)
def test_a_hostile_answer_is_worth_0_within_a_second(grade, answer):
    began = time.process_time()
    scores = [grade(row_of(right), answer) for right in ("7.5", "a b c")]

    assert not any(score.correct for score in scores)
    assert time.process_time() - began < 1


def test_the_names_are_those_of_a_recipe():
    assert tuple(GRADERS) == RECIPE_GRADERS


@pytest.mark.parametrize(
    ("name", "found"), [(None, "my.jsonl needs a grader"), ("f1", "my.jsonl has grader 'f1'")]
)
def test_a_missing_or_unknown_grader_is_refused_with_what_there_is(name, found):
    with pytest.raises(TaskError, match=f"^{found}, expected one of: exact ") as caught:
        named_grader(name, "my.jsonl")

    assert all(f"{name} ({grader.does})" in str(caught.value) for name, grader in GRADERS.items())
    assert caught.value.hint == "say how answers are graded, such as --grader number"
