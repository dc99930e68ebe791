import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.tasks.benchmarks.hellaswag import HELLASWAG
from esft.tasks.benchmarks.mmlu import MMLU
from esft.tasks.benchmarks.mmlu_pro import MMLU_PRO
from esft.tasks.benchmarks.piqa import PIQA
from esft.tasks.benchmarks.winogrande import WINOGRANDE
from esft.tasks.ids import made_id
from esft.tasks.multiple_choice import choice_row, grade_choice, text_options
from esft.tasks.rows import read_split

FILES = Path(__file__).with_name("files")
TASKS = [PIQA, HELLASWAG, WINOGRANDE, MMLU, MMLU_PRO]
COUNTS = {
    PIQA.name: {"train": 4, "validation": 3},
    HELLASWAG.name: {"train": 3, "validation": 3},
    WINOGRANDE.name: {"train": 4, "validation": 3},
    MMLU.name: {"train": 4, "validation": 3, "test": 3},
    MMLU_PRO.name: {"train": 4, "test": 3},
}


def row_of(texts=("dry palms", "wet palms", "oily palms"), labels="ABC", gold=1):
    options = text_options("Which are best?", texts, labels)
    return choice_row(id="r", asked="Which are best?", options=options, gold=gold)


@pytest.fixture(scope="module", params=TASKS, ids=lambda task: task.name)
def task(request):
    return request.param


@pytest.fixture(scope="module")
def rows(task):
    return [row for split in task.splits for row in read_split(task, split, FILES)]


def test_a_row_asks_for_the_label_of_its_right_option():
    row = row_of()

    assert row.questions[0].messages == (
        {
            "role": "user",
            "content": "Which are best?\n\nA. dry palms\nB. wet palms\nC. oily palms\n\n"
            "Reply with the letter of the right answer alone.",
        },
    )
    assert (row.gold, row.answer, row.questions[0].reference) == (1, "B", "B")
    assert row.questions[0].opening == ""


def test_a_message_asks_for_a_number_where_the_labels_are_numbers():
    content = row_of(labels="123").questions[0].messages[0]["content"]

    assert "\n2. wet palms\n" in content
    assert content.endswith("\n\nReply with the number of the right answer alone.")


def test_space_around_an_option_is_scored_but_not_listed():
    row = row_of(texts=[" dry palms", "wet palms "], labels="AB")

    assert "\nA. dry palms\nB. wet palms\n\n" in row.questions[0].messages[0]["content"]
    assert [option.continuation for option in row.options] == ["  dry palms", " wet palms "]
    assert [option.divisor for option in row.options] == [10, 10]


def test_a_made_id_tells_what_is_asked_apart():
    ids = {made_id("piqa", "ab"), made_id("piqa", "a", "b"), made_id("piqa", "b", "a")}

    assert len(ids) == 3
    assert all(len(made) == len("piqa-") + 12 for made in ids)
    assert made_id("piqa", "ab") in ids


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("B", True),
        ("b", True),
        ("(B)", True),
        ("The answer is B.", True),
        ("B. wet palms", True),
        ("wet palms", True),
        ("Wet palms.", True),
        ("A", False),
        ("D", False),
        ("A or B", False),
        ("not B", False),
        ("dry palms or wet palms", False),
        ("A. wet palms", False),
        ("A. dry palms\nB. wet palms\nC. oily palms", False),
        ("", False),
        (" \n", False),
        ("\0", False),
        ("\ud800", False),
        ("palms", False),
        ("2", False),
        ("B" * 1000, False),
    ],
)
def test_an_answer_is_worth_1_where_it_names_the_right_option_alone(answer, correct):
    score = grade_choice(row_of(), answer)

    assert score.correct is correct
    assert score.reward == (1.0 if correct else 0.0)


@given(answer=st.text())
def test_no_answer_raises_or_is_worth_more_than_1(task, rows, answer):
    for row in rows:
        score = task.grade(row, [answer])

        assert score.reward == float(score.correct) <= task.max_reward == 1


@pytest.mark.parametrize("piece", ["A ", "answer is ", "(", "9", "wet ", "\n", "1 or ", "é"])
def test_an_answer_of_100_kb_is_graded_at_once(task, rows, piece):
    answer = piece * (100_000 // len(piece))
    start = time.process_time()

    score = task.grade(rows[0], [answer])

    assert time.process_time() - start < 1
    assert score.reward <= 1


def test_small_files_of_the_published_columns_are_read(task):
    counts = {split: len(read_split(task, split, FILES)) for split in task.splits}

    assert counts == COUNTS[task.name]


def test_every_reference_and_every_right_text_is_worth_1_and_no_other_label(task, rows):
    for row in rows:
        right = row.options[row.gold]

        assert right.label == row.answer == row.questions[0].reference
        assert task.grade(row, [row.questions[0].reference]).reward == 1
        assert task.grade(row, [right.text]).reward == 1
        wrong = [option.label for option in row.options if option is not right]
        assert not any(task.grade(row, [label]).correct for label in wrong)


def test_every_option_is_listed_under_its_label(rows):
    for row in rows:
        content = row.questions[0].messages[0]["content"]
        for option in row.options:
            assert f"\n{option.label}. {option.text.strip()}\n" in content


def test_ids_of_small_rows_are_all_different(task, rows):
    assert len({row.id for row in rows}) == len(rows)
    assert all(row.id.startswith(f"{task.name}-") for row in rows)


def test_a_choice_task_is_scored_by_choice_or_by_short_answers(task):
    assert (task.scoring, task.scorings) == ("choice", ("choice", "generate"))
    assert task.max_new_tokens == 16


def test_every_row_of_the_published_files_is_read(task):
    folder = os.environ.get("ESFT_DATA_DIR")
    if not folder:
        pytest.skip("ESFT_DATA_DIR is not set: no folder with rows of public benchmarks")
    paths = {
        split: Path(folder) / f"{task.file}.{name}.jsonl" for split, name in task.splits.items()
    }
    there = {split: path for split, path in paths.items() if path.is_file()}
    assert there

    for split, path in there.items():
        rows = read_split(task, split, Path(folder))

        assert len(rows) == path.read_bytes().count(b"\n")
        assert all(task.grade(row, [row.questions[0].reference]).reward == 1 for row in rows)
        assert {row.gold for row in rows} == set(range(max(len(row.options) for row in rows)))
