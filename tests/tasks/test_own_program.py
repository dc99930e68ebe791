import sys
import textwrap

import pytest

from esft.errors import TaskError
from esft.tasks.own import own_task
from esft.tasks.rows import read_split, split_rows

from .some_rows import prompts, write_rows

REWARD = """
def reward(row, answer):
    return len(answer) * row.get("worth", 1)
"""
ROWS = """
def rows():
    print("rows")
    for number in range(6):
        yield {"prompt": f"Q{number}?", "answer": number, "worth": number / 2}
"""


def task_of(folder, source):
    path = folder / "my.py"
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return own_task(path, None)


def test_rows_come_from_the_program_and_go_back_to_it(tmp_path, capfd):
    task = task_of(tmp_path, ROWS + REWARD)

    split = split_rows(task, 3, 2)
    rows = [*split.train, *split.holdout]
    grades = [task.grade(row, ["four"]) for row in rows]

    numbers = [int(row.questions[0].reference) for row in rows]
    assert len(set(numbers) & set(range(6))) == 5
    assert prompts(rows) == [f"Q{number}?" for number in numbers]
    assert [grade.reward for grade in grades] == [number * 2.0 for number in numbers]
    assert [grade.correct for grade in grades] == [number > 0 for number in numbers]
    assert capfd.readouterr().out == ""
    assert "esft_program" not in sys.modules  # it never runs in this process


def test_rows_are_asked_for_once(tmp_path):
    source = "import random\ndef rows(): return [{'prompt': str(random.random())}]\n"
    task = task_of(tmp_path, source + REWARD)

    assert read_split(task, "train") == read_split(task, "train")


@pytest.mark.parametrize(("name", "folder"), [("my", False), ("my.test", True)])
def test_without_rows_they_are_those_of_the_file_beside_it_or_of_a_folder(tmp_path, name, folder):
    task = task_of(tmp_path, REWARD)
    columns = {"prompt": "Q?", "answer": {"any": 1}, "worth": 0.25, "choices": 3, "split": "test"}
    write_rows(tmp_path, name, [columns])

    row = read_split(task, "test", tmp_path if folder else None)[0]

    assert (row.answer, row.questions[0].reference, row.options) == (None, None, ())
    assert task.grade(row, ["four"]).reward == 1.0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", r"my\.py has no function rows\(\), and there is no my\.jsonl beside it"),
        ("def rows(): return []", r"rows\(\) of \S+my\.py gives no rows, expected at least one"),
        ("def rows(): return [{'prompt': 3}]", r"my\.py, row 1: column prompt is 3, expected a te"),
        ("def rows(): return [{'split': 'dev'}]", r"my\.py, row 1: column split is 'dev', expec"),
        ("def rows(): 1 / 0", r"rows\(\) of \S+my\.py: (.|\n)*ZeroDivisionError: division by zero"),
        ("import nothing_of_this_name", r"my\.py cannot be started: (.|\n)*No module named"),
    ],
)
def test_a_program_without_rows_that_can_be_used_is_refused(tmp_path, source, message):
    task = task_of(tmp_path, f"{source}\n{REWARD}")

    with pytest.raises(TaskError, match=message) as caught:
        read_split(task, "train")

    assert caught.value.hint


def test_the_task_is_named_for_the_file_and_says_its_limit(tmp_path):
    task = task_of(tmp_path, REWARD)

    assert (task.name, task.file, task.source) == ("my", "my", str(tmp_path / "my.py"))
    assert task.grading == "reward() of my.py, in at most 1 s an answer; correct from 1 on"
