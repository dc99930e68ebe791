from pathlib import Path

import pytest

from esft.tasks.benchmarks.short_answers import (
    CONCISENESS,
    NQ_OPEN,
    TRIVIA_QA,
    grade_conciseness,
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
        ("Paris.", 0.99, True),
        ("The capital is PARIS.", 0.84, True),
        ("", 0.95, False),
        ("x" * 55, 0.5, False),
        ("x" * 105, 0.0, False),
        ("x" * 1000, 0.0, False),
        ("é" * 5, 1.0, False),
        ("comparison", 0.95, False),
    ],
)
def test_conciseness_takes_a_hundredth_for_each_character_of_difference(answer, reward, correct):
    grade = grade_conciseness(CONCISENESS.read({"prompt": "Q?", "answer": "Paris"}), answer)

    assert (grade.reward, grade.correct) == (pytest.approx(reward, abs=1e-12), correct)


def test_the_shipped_rows_are_all_different_and_short_and_do_not_hold_their_answer():
    splits = {split: read_split(CONCISENESS, split) for split in SPLITS}
    rows = [row for split in splits.values() for row in split]

    assert {split: len(rows) for split, rows in splits.items()} == SPLITS
    assert len({row.key for row in rows}) == len({row.id for row in rows}) == len(rows)
    assert all(len(row.answer) <= 24 and len(row.answer.split()) <= 3 for row in rows)
    for row in rows:
        assert not grade_conciseness(row, row.questions[0].messages[0]["content"]).correct
