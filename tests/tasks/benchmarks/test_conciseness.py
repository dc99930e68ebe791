import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.errors import TaskError
from esft.tasks.benchmarks.conciseness import grade_conciseness, read_conciseness
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split

SPLITS = {"train": 220, "validation": 220, "test": 200}


def row_of(answer, prompt="Q?"):
    return read_conciseness({"prompt": prompt, "answer": answer})


def words(text):
    return frozenset(re.findall(r"[^\W_]+", text.casefold()))


SMALL_WORDS = words(
    "what is the a an of in which does do you call called name who to on for are how many word "
    "mean english into translate give write capital city and with by from at it its one that "
    "this or s"
)


@pytest.fixture(scope="module")
def shipped():
    return [row for split in SPLITS for row in read_split(get_task("conciseness"), split)]


@pytest.mark.parametrize(
    ("answer", "reference", "reward"),
    [
        ("Paris", "Paris", 1.0),
        ("  Paris\n", "Paris", 1.0),
        ("Paris.", "Paris", 0.99),
        ("", "Paris", 0.95),
        ("x" * 55, "Paris", 0.5),
        ("x" * 105, "Paris", 0.0),
        ("x" * 1000, "Paris", 0.0),
        ("é" * 5, "Paris", 1.0),
    ],
)
def test_the_reward_falls_by_a_hundredth_for_each_character_of_difference(
    answer, reference, reward
):
    assert grade_conciseness(row_of(reference), answer).reward == pytest.approx(reward, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "reference", "correct"),
    [
        ("Paris", "Paris", True),
        ("The capital is PARIS.", "Paris", True),
        ("**Paris**", "Paris", True),
        ("London", "Paris", False),
        ("Parisian", "Paris", False),
        ("comparison", "Paris", False),
        ("New\n Delhi", "New Delhi", True),
        ("New York, Delhi", "New Delhi", False),
        ("3 + 5 = 8", "8", True),
        ("8.", "8", True),
        ("18", "8", False),
        ("8.5", "8", False),
        ("3.8", "8", False),
        ("8,000", "8", False),
        ("7, 8, 9", "8", True),
        ("", "8", False),
        ("axb", "a.b", False),
        ("C++ it is", "C++", True),
    ],
)
def test_an_answer_is_correct_where_the_reference_is_in_it_as_whole_words(
    answer, reference, correct
):
    assert grade_conciseness(row_of(reference), answer).correct is correct


@given(answer=st.text(), reference=st.text(min_size=1).filter(lambda text: text.strip().isascii()))
def test_any_answer_gets_a_reward_from_0_to_1(answer, reference):
    if not reference.strip():
        return

    score = grade_conciseness(row_of(reference), answer)

    assert 0 <= score.reward <= 1
    assert isinstance(score.correct, bool)


@given(reference=st.from_regex(r"[a-z]{1,9}( [a-z]{1,9}){0,2}", fullmatch=True))
def test_the_reference_itself_gets_all(reference):
    score = grade_conciseness(row_of(reference), reference)

    assert (score.reward, score.correct) == (1.0, True)


def test_a_row_asks_its_prompt_and_nothing_else():
    row = row_of(" Paris ", prompt="What is the capital of France?")

    assert row.questions[0].messages == (
        {"role": "user", "content": "What is the capital of France?"},
    )
    assert row.answer == "Paris"
    assert row.options == ()
    assert row.gold is None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"prompt": "Q?"}, "column answer is missing, the row has: prompt"),
        ({"question": "Q?", "answer": "A"}, "column prompt is missing"),
        ({"prompt": "Q?", "answer": 8}, "column answer is 8, expected a text"),
        ({"prompt": "", "answer": "A"}, "column prompt is '', expected a text"),
    ],
)
def test_a_wrong_row_is_refused_with_column_and_value(raw, message):
    with pytest.raises(TaskError, match=message):
        read_conciseness(raw)


@pytest.mark.parametrize(("split", "count"), SPLITS.items())
def test_the_shipped_splits(split, count):
    assert len(read_split(get_task("conciseness"), split)) == count


def test_shipped_rows_are_all_different(shipped):
    assert len({row.key for row in shipped}) == len({row.id for row in shipped}) == len(shipped)


def test_shipped_references_are_short(shipped):
    for row in shipped:
        assert 1 <= len(row.answer.split()) <= 3, row
        assert len(row.answer) <= 24, row
        assert row.answer == row.answer.strip()


def test_no_shipped_question_holds_its_answer(shipped):
    for row in shipped:
        question = row.questions[0].messages[0]["content"]
        assert not grade_conciseness(row, question).correct, row


def test_no_two_shipped_rows_ask_for_the_same_fact(shipped):
    # Two rows about one fact share most of the words of question and answer together, whichever
    # of the two is asked for: "capital of France" and "Paris is the capital of which country".
    facts = [
        words(f"{row.questions[0].messages[0]['content']} {row.answer}") - SMALL_WORDS
        for row in shipped
    ]

    near = [
        (sorted(one), sorted(other))
        for one, other in itertools.combinations(facts, 2)
        if len(one & other) >= 0.6 * len(one | other)
    ]

    assert near == []
