"""What holds for every task: rows of its columns are read, and no answer is too much for it."""

import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esft.tasks.registry import get_task, task_names
from esft.tasks.rows import read_split, row_source
from esft.tasks.words import SCORINGS

FILES = Path(__file__).parent / "files"
HUB = [name for name in task_names() if get_task(name).hub is not None]
RECORDED = {
    "arc": ("made-1", "778eba0e0a85"),
    "conciseness": ("conciseness-ada880604c5b", "4ce1cd74e029"),
    "copy-letters": ("copy-letters-4656f9b990c5", "4656f9b990c5"),
    "countdown": ("0", "8839aaa7b9e2"),
    "countdown-3to4": ("countdown-656915afed21", "8839aaa7b9e2"),
    "gsm8k": ("gsm8k-7b3ef09e0adb", "251fc6073ddf"),
    "hellaswag": ("hellaswag-2e030ffdc3e9", "49c8bd560b1b"),
    "math-500": ("test/prealgebra/9001.json", "859df1b413c2"),
    "mmlu": ("mmlu-c04a01d8f3e3", "66f93bf1a3e5"),
    "mmlu-pro": ("mmlu-pro-01d7f122373b", "ea2dfa877ebe"),
    "nq-open": ("nq-open-1791dcb14d11", "8be521b295b4"),
    "piqa": ("piqa-f942e32560e7", "f101963d4f25"),
    "proofwriter": ("Made-OWA-D1-1", "d5fe1be5c97e"),
    "trivia-qa": ("made_1", "fe7ce82b8267"),
    "winogrande": ("winogrande-18897a873b5e", "a0cb7572160b"),
}
"""Id and begin of the key of the first row of the small files, or of those shipped or made."""
HOSTILE = (
    "",
    "\0\n\r\u2028",
    "9" * 100_000,
    "<answer>" * 5_000 + "</answer>" * 5_000,
    "<think></think><answer></answer>" * 3_000,
    "<answer>" + "40 + " * 20_000 + "</answer>",
    "#### " + "1," * 20_000,
    "#### 1e999999999",
    "####" * 25_000,
    "\\boxed{9^{9^{9^{9}}}}",
    "Answer: " * 10_000,
    "A or B or C " * 5_000,
    "answer is " * 10_000,
    "\ud800 half a pair",
    "e\u0301" * 20_000,
)
TEXTS = st.text(max_size=400) | st.text("0123456789+-*/().,#<>{}\\ answerthinkABCD\n", max_size=200)


@cache
def small_rows(name):
    """The rows of the task's small files, or of those that it makes or ships."""
    task = get_task(name)
    folder = FILES if any(FILES.glob(f"{task.file}.*.jsonl")) else None
    source = row_source(task, folder)
    splits = [split for split, name in task.splits.items() if source.has(name)]
    return [row for split in splits for row in read_split(task, split, folder)]


def asked(row):
    """The question that the right answers are to; some tasks ask another thing of it too."""
    return row.questions[0]


def answers(row, answer, other=None):
    """An answer to each question; the other ones are like the first where none is given."""
    return [answer, *[answer if other is None else other] * (len(row.questions) - 1)]


@pytest.mark.parametrize("name", task_names())
def test_rows_are_read_whole(name):
    task = get_task(name)

    rows = small_rows(name)

    assert task.name == name
    assert set(task.scorings) <= set(SCORINGS)
    assert len(rows) >= 3
    assert len({(row.id, row.key) for row in rows}) == len(rows)
    for row in rows:
        assert asked(row).messages[-1]["role"] == "user"
        assert (row.gold is None) == (not row.options)
        assert ("choice" in task.scorings) == bool(row.options)
        assert asked(row).reference is None or asked(row).reference.startswith(asked(row).opening)


@pytest.mark.parametrize("name", RECORDED)
def test_ids_and_keys_are_those_of_the_runs_made_so_far(name):
    # Which rows are train and which are holdout rows follows from the keys.
    first = small_rows(name)[0]

    assert (first.id, first.key[:12]) == RECORDED[name]


@pytest.mark.parametrize("name", task_names())
def test_a_reference_and_all_accepted_answers_get_the_most_there_is(name):
    task = get_task(name)
    rows = [row for row in small_rows(name)[:20] if asked(row).reference is not None]

    for row in rows:
        for right in (asked(row).reference, *row.accepted):
            grade = task.grade(row, answers(row, right, "Yes"))
            assert (grade.correct, grade.failure) == (True, None)
            assert grade.reward == pytest.approx(task.max_reward)


@pytest.mark.parametrize("name", [name for name in HUB if "choice" in get_task(name).scorings])
def test_of_the_options_the_right_one_is_right_by_label_or_text(name):
    task = get_task(name)
    for row in small_rows(name):
        right = row.options[row.gold]

        assert task.grade(row, [right.text]).correct
        correct = [option for option in row.options if task.grade(row, [option.label]).correct]
        assert correct == [right]


@pytest.mark.parametrize("name", task_names())
def test_a_hostile_answer_gets_a_reward_within_bounds_at_once(name):
    task = get_task(name)
    for answer in HOSTILE:
        start = time.process_time()

        row = small_rows(name)[0]
        grade = task.grade(row, answers(row, answer))

        assert 0 <= grade.reward <= task.max_reward, answer[:20]
        assert not grade.correct, answer[:20]
        assert time.process_time() - start < 1, answer[:20]  # quadratic time would be minutes


@pytest.mark.parametrize("name", [name for name in HUB if name != "math-500"])
@settings(max_examples=25, deadline=None)
@given(answer=TEXTS, row=st.integers(0, 2))
@example(answer="<think></think><answer>1+1</answer>", row=0)
def test_any_answer_gets_a_reward_within_bounds(name, answer, row):
    task = get_task(name)

    row = small_rows(name)[row]
    grade = task.grade(row, answers(row, answer))

    assert 0 <= grade.reward <= task.max_reward
    assert grade.failure is None


@pytest.mark.parametrize("name", HUB)
def test_published_rows_are_all_read_and_some_hundred_references_are_right(data_dir, name):
    task = get_task(name)
    source = row_source(task, data_dir)
    splits = {split: file for split, file in task.splits.items() if source.has(file)}
    assert splits

    for split, file in splits.items():
        lines = (data_dir / f"{task.file}.{file}.jsonl").read_bytes().count(b"\n")

        rows = read_split(task, split, data_dir)

        assert len(rows) == lines
        for row in rows[:: 1 + len(rows) // 500] if name != "math-500" else rows[:50]:
            for right in filter(None, (asked(row).reference, *row.accepted)):
                grade = task.grade(row, answers(row, right, "Yes"))
                assert (grade.reward, grade.correct) == (task.max_reward, True), row
