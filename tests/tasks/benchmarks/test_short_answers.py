import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.errors import TaskError
from esft.tasks.benchmarks.short_answers import (
    CONCISENESS,
    NQ_OPEN,
    TRIVIA_QA,
    grade_conciseness,
    read_conciseness,
    read_trivia_qa,
)
from esft.tasks.rows import read_split

FILES = Path(__file__).parents[1] / "files"
SPLITS = {"train": 220, "validation": 220, "test": 200}


@pytest.mark.parametrize(
    ("task", "question", "answer", "accepted"),
    [
        (NQ_OPEN, "when was the mill in bergby built", "14 May 1902", ("1902",)),
        (
            TRIVIA_QA,
            "Which harbour town has a lighthouse of red brick?",
            "Berghavn",
            ("BERGHAVN", "Berghavn, Norland"),
        ),
    ],
)
def test_a_row_asks_for_the_answer_alone(task, question, answer, accepted):
    row = next(
        row
        for split in task.splits
        for row in read_split(task, split, FILES)
        if row.answer == answer
    )

    (asked,) = row.questions
    content = f"{question}\n\nReply with the answer alone, in a few words."
    assert asked.messages == ({"role": "user", "content": content},)
    assert (asked.reference, row.accepted) == (answer, accepted)


def test_an_answer_that_occurs_twice_is_accepted_once():
    row = read_split(NQ_OPEN, "validation", FILES)[1]

    assert (row.answer, row.accepted) == ("Bo Ek", ("Åsa Ek",))


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


@pytest.mark.parametrize("task", [NQ_OPEN, TRIVIA_QA], ids=lambda task: task.name)
def test_there_are_no_test_rows_as_their_answers_are_not_public(task):
    with pytest.raises(TaskError, match=r"has no test rows .* has: train, validation"):
        read_split(task, "test", FILES)


def row_of(answer, prompt="Q?"):
    return read_conciseness({"prompt": prompt, "answer": answer})


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("Paris", 1.0),
        ("  Paris\n", 1.0),
        ("Paris.", 0.99),
        ("", 0.95),
        ("x" * 55, 0.5),
        ("x" * 105, 0.0),
        ("x" * 1000, 0.0),
        ("é" * 5, 1.0),
    ],
)
def test_the_reward_falls_by_a_hundredth_for_each_character_of_difference(answer, reward):
    assert grade_conciseness(row_of("Paris"), answer).reward == pytest.approx(reward, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "reference", "correct"),
    [
        ("The capital is PARIS.", "Paris", True),
        ("**Paris**", "Paris", True),
        ("Parisian", "Paris", False),
        ("comparison", "Paris", False),
        ("New\n Delhi", "New Delhi", True),
        ("New York, Delhi", "New Delhi", False),
        ("3 + 5 = 8", "8", True),
        ("8.5", "8", False),
        ("8,000", "8", False),
        ("7, 8, 9", "8", True),
        ("axb", "a.b", False),
    ],
)
def test_an_answer_is_correct_where_the_reference_is_in_it_as_whole_words(
    answer, reference, correct
):
    assert grade_conciseness(row_of(reference), answer).correct is correct


@given(reference=st.from_regex(r"[a-z]{1,9}( [a-z]{1,9}){0,2}", fullmatch=True))
def test_the_reference_itself_gets_all(reference):
    grade = grade_conciseness(row_of(reference), reference)

    assert (grade.reward, grade.correct) == (1.0, True)


def words(text):
    return frozenset(re.findall(r"[^\W_]+", text.casefold()))


SMALL_WORDS = words(
    "what is the a an of in which does do you call called name who to on for are how many word "
    "mean english into translate give write capital city and with by from at it its one that "
    "this or s"
)


@pytest.fixture(scope="module")
def shipped():
    return {split: read_split(CONCISENESS, split) for split in SPLITS}


def test_the_shipped_rows_are_all_different_and_short(shipped):
    rows = [row for split in shipped.values() for row in split]

    assert {split: len(rows) for split, rows in shipped.items()} == SPLITS
    assert len({row.key for row in rows}) == len({row.id for row in rows}) == len(rows)
    assert all(len(row.answer) <= 24 and len(row.answer.split()) <= 3 for row in rows)


def test_no_shipped_question_holds_its_answer_and_no_two_ask_for_the_same_fact(shipped):
    # Two rows about one fact share most of the words of question and answer together, whichever
    # of the two is asked for: "capital of France" and "Paris is the capital of which country".
    rows = [row for split in shipped.values() for row in split]
    asked = {row.id: row.questions[0].messages[0]["content"] for row in rows}
    facts = [words(f"{asked[row.id]} {row.answer}") - SMALL_WORDS for row in rows]

    near = [
        (sorted(one), sorted(other))
        for one, other in itertools.combinations(facts, 2)
        if len(one & other) >= 0.6 * len(one | other)
    ]

    assert near == []
    assert not any(grade_conciseness(row, asked[row.id]).correct for row in rows)
