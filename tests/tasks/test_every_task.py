"""What holds for every task: rows of its columns are read, and no answer is too much for it."""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esft.tasks.registry import get_task, task_names
from esft.tasks.rows import read_split, row_source

FILES = Path(__file__).parent / "files"
HOSTILE = (
    "",
    "\0\n\r\u2028",
    "(" * 20_000,
    "9" * 100_000,
    "<answer>" * 5_000 + "</answer>" * 5_000,
    "<answer>" + "9**" * 3_000 + "9</answer>",
    "#### " + "1," * 20_000,
    "\\boxed{" * 3_000,
    "\\boxed{9^{9^{9^{9}}}}",
    "Answer: " * 10_000,
    "A or B or C " * 5_000,
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


@pytest.mark.parametrize("name", task_names())
def test_rows_are_read_whole(name):
    task = get_task(name)

    rows = small_rows(name)

    assert len(rows) >= 3
    for row in rows:
        assert row.questions[0].messages[-1]["role"] == "user"
        assert (row.gold is None) == (not row.options)
        assert ("choice" in task.scorings) == bool(row.options)
        assert row.questions[0].reference is None or row.questions[0].reference.startswith(
            row.questions[0].opening
        )


@pytest.mark.parametrize("name", task_names())
def test_a_reference_gets_the_most_there_is(name):
    task = get_task(name)
    rows = [row for row in small_rows(name)[:20] if row.questions[0].reference is not None]

    for row in rows:
        score = task.grade(row, [row.questions[0].reference])
        assert (score.correct, score.failure) == (True, None)
        assert score.reward == pytest.approx(task.max_reward)


@pytest.mark.parametrize("answer", HOSTILE)
@pytest.mark.parametrize("name", task_names())
def test_a_hostile_answer_gets_a_reward_within_bounds(name, answer):
    task = get_task(name)

    score = task.grade(small_rows(name)[0], [answer])

    assert 0 <= score.reward <= task.max_reward
    assert not score.correct


@pytest.mark.parametrize("name", [name for name in task_names() if name != "math-500"])
@settings(max_examples=60, deadline=None)
@given(answer=TEXTS, place=st.integers(0, 2))
@example(answer="<think></think><answer>1+1</answer>", place=0)
def test_any_answer_gets_a_reward_within_bounds(name, answer, place):
    task = get_task(name)

    score = task.grade(small_rows(name)[place], [answer])

    assert 0 <= score.reward <= task.max_reward
    assert score.failure is None
