from pathlib import Path

import pytest

from esft.errors import TaskError
from esft.tasks.benchmarks.trivia_qa import TRIVIA_QA, read_trivia_qa
from esft.tasks.rows import read_split

FILES = Path(__file__).parents[1] / "files"


def an_object(value, aliases):
    answer = {"value": value, "aliases": aliases}
    return {"question": "Who?", "question_id": "q1", "answer": answer}


def test_a_row_asks_for_the_answer_alone():
    row = read_split(TRIVIA_QA, "train", FILES)[0]

    assert row.questions[0].messages == (
        {
            "role": "user",
            "content": "Which harbour town has a lighthouse of red brick?\n\n"
            "Reply with the answer alone, in a few words.",
        },
    )
    assert row.id == "made_1"
    assert (row.answer, row.questions[0].reference) == ("Berghavn", "Berghavn")
    assert row.accepted == ("BERGHAVN", "Berghavn, Norland")
    assert row.options == ()


@pytest.mark.parametrize(
    ("value", "aliases", "reference"),
    [
        ("DIEPPE", ["Dieppe, France", "DIEPPE", "Dieppe"], "Dieppe"),
        ("THE EYELID", ["Lid", "Eyelid"], "Eyelid"),
        ("THE EYELID", ["Eyelid", "The Eyelid"], "The Eyelid"),
        ("OBOE", ["Oboes"], "OBOE"),
        ("OBOE", [], "OBOE"),
        ("USA", ["Usa"], "USA"),
        ("Dieppe", ["dieppe"], "Dieppe"),
        (" 1972 ", ["1972"], "1972"),
    ],
)
def test_a_value_in_capitals_gives_way_to_an_alias_that_is_not(value, aliases, reference):
    row = read_trivia_qa(an_object(value, aliases))

    assert row.questions[0].reference == row.answer == reference
    assert {row.answer, *row.accepted} == {value.strip(), *aliases}


def test_every_accepted_answer_of_the_small_files_is_right():
    for split in ("train", "validation"):
        for row in read_split(TRIVIA_QA, split, FILES):
            for right in (row.questions[0].reference, *row.accepted):
                score = TRIVIA_QA.grade(row, [right])
                assert (score.reward, score.correct) == (1.0, True), row


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"question": "Who?", "question_id": "q1"}, "column answer is missing, the row has: quest"),
        ({**an_object("x", []), "question": None}, "column question is None, expected a text"),
        ({**an_object("x", []), "question_id": 1}, "column question_id is 1, expected a text"),
        (
            {**an_object("x", []), "answer": "x"},
            "column answer is 'x', expected an object with val",
        ),
        ({**an_object("x", []), "answer": {"value": "x"}}, "column answer.aliases is missing"),
        (an_object(None, ["x"]), "column answer.value is None, expected a text"),
        (an_object("<unk>", None), "column answer.aliases is None, expected a list of texts"),
        (an_object("x", ["x", ""]), "column answer.aliases is .*, expected a list of texts"),
    ],
)
def test_a_wrong_row_is_refused_with_column_value_and_what_was_expected(raw, message):
    with pytest.raises(TaskError, match=message):
        read_trivia_qa(raw)


def test_every_accepted_answer_of_the_published_file_is_right(data_dir):
    lines = (data_dir / "trivia_qa.validation.jsonl").read_bytes().count(b"\n")

    rows = read_split(TRIVIA_QA, "validation", data_dir)

    assert len(rows) == lines
    assert len({row.id for row in rows}) == lines
    for row in rows:
        for right in (row.questions[0].reference, *row.accepted):
            score = TRIVIA_QA.grade(row, [right])
            assert (score.reward, score.correct) == (1.0, True), row


def test_there_are_no_test_rows():
    with pytest.raises(TaskError, match=r"trivia-qa has no test rows .* has: train, validation"):
        read_split(TRIVIA_QA, "test", FILES)


def test_the_task():
    hub = TRIVIA_QA.hub
    assert (hub.id, hub.config) == ("mandarjoshi/trivia_qa", "rc.nocontext")
    assert TRIVIA_QA.file == "trivia_qa"
    assert (TRIVIA_QA.scoring, TRIVIA_QA.scorings) == ("generate", ("generate",))
    assert (TRIVIA_QA.max_new_tokens, TRIVIA_QA.max_reward) == (32, 1.0)
