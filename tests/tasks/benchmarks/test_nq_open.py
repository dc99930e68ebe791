from pathlib import Path

import pytest

from esft.errors import TaskError
from esft.tasks.benchmarks.nq_open import NQ_OPEN, read_nq_open
from esft.tasks.rows import read_split

FILES = Path(__file__).parents[1] / "files"


def test_a_row_asks_for_the_answer_alone():
    row = read_split(NQ_OPEN, "validation", FILES)[0]

    assert row.questions[0].messages == (
        {
            "role": "user",
            "content": "when was the mill in bergby built\n\n"
            "Reply with the answer alone, in a few words.",
        },
    )
    assert row.id.startswith("nq-open-")
    assert (row.answer, row.questions[0].reference, row.accepted) == (
        "14 May 1902",
        "14 May 1902",
        ("1902",),
    )
    assert row.options == ()


def test_an_answer_that_occurs_twice_is_accepted_once():
    row = read_split(NQ_OPEN, "validation", FILES)[1]

    assert (row.answer, row.accepted) == ("Bo Ek", ("Åsa Ek",))


def test_every_accepted_answer_of_the_small_files_is_right():
    for split in ("train", "validation"):
        for row in read_split(NQ_OPEN, split, FILES):
            for right in (row.questions[0].reference, *row.accepted):
                score = NQ_OPEN.grade(row, [right])
                assert (score.reward, score.correct) == (1.0, True), row


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"question": "who"}, "column answer is missing, the row has: question"),
        ({"question": "", "answer": ["x"]}, "column question is '', expected a text"),
        ({"question": "who", "answer": []}, r"column answer is \[\], expected one answer or more"),
        ({"question": "who", "answer": "x"}, "column answer is 'x', expected a list of texts"),
        ({"question": "who", "answer": ["x", ""]}, "column answer is .*, expected a list of texts"),
        ({"question": "who", "answer": [None]}, r"column answer is \[None\], expected a list of"),
    ],
)
def test_a_wrong_row_is_refused_with_column_value_and_what_was_expected(raw, message):
    with pytest.raises(TaskError, match=message):
        read_nq_open(raw)


def test_every_accepted_answer_of_the_published_file_is_right(data_dir):
    lines = (data_dir / "nq_open.validation.jsonl").read_bytes().count(b"\n")

    rows = read_split(NQ_OPEN, "validation", data_dir)

    assert len(rows) == lines
    for row in rows:
        for right in (row.questions[0].reference, *row.accepted):
            score = NQ_OPEN.grade(row, [right])
            assert (score.reward, score.correct) == (1.0, True), row


def test_there_are_no_test_rows():
    with pytest.raises(TaskError, match=r"nq-open has no test rows .* has: train, validation"):
        read_split(NQ_OPEN, "test", FILES)


def test_the_task():
    hub = NQ_OPEN.hub
    assert (hub.id, hub.config) == ("google-research-datasets/nq_open", "nq_open")
    assert NQ_OPEN.file == "nq_open"
    assert (NQ_OPEN.scoring, NQ_OPEN.scorings) == ("generate", ("generate",))
    assert (NQ_OPEN.max_new_tokens, NQ_OPEN.max_reward) == (32, 1.0)
