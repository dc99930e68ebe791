import inspect
import threading
import time
from dataclasses import replace

import pytest
from scoring import a_task, question_row
from tiny_models import tiny_llama, tiny_tokenizer

from esft.rollout.batches import Batches
from esft.rollout.rollout import Rollout
from esft.tasks.task import Grade, ask

ROWS = tuple(question_row(number) for number in range(6))
PATIENCE = 20  # seconds until what never comes is given up


def a_rollout(grade, on_forward=lambda rows: None, size=2):
    model = tiny_llama()
    forward = model.forward

    def watched(*args, **kwargs):
        on_forward(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    model.forward = watched
    model.forward.__signature__ = inspect.signature(forward)
    task = replace(a_task("generate"), grade=grade)
    return Rollout(model, tiny_tokenizer(), task, max_new_tokens=3, batches=Batches(size))


def half(row, answers):
    return Grade(reward=0.5, correct=False)


def graders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("grader")]


def test_answers_are_graded_while_the_next_batch_decodes():
    graded, forwards, met = threading.Event(), [], []

    def grade(row, answers):
        graded.set()
        return half(row, answers)

    def on_forward(rows):
        forwards.append(rows)
        if len(forwards) == 4:  # the first of the second batch: its prompts
            met.append(graded.wait(PATIENCE))

    rollout = a_rollout(grade, on_forward)

    rollout.roll_out(rollout.encode(ROWS))

    assert met == [True]


def test_one_row_is_graded_at_a_time_and_the_results_are_in_row_order():
    together, most = [], []

    def grade(row, answers):
        together.append(row.id)
        most.append(len(together))
        time.sleep(0.01)
        together.remove(row.id)
        return Grade(reward=float(row.id.removeprefix("row-")), correct=False)

    rollout = a_rollout(grade)

    results = rollout.roll_out(rollout.encode(ROWS))

    assert [result.reward for result in results] == [0, 1, 2, 3, 4, 5]
    assert max(most) == 1
    assert graders() == []


@pytest.mark.parametrize("size", [1, 2, 64])
def test_a_row_waits_for_the_answers_to_all_its_questions(size):
    seen = {}

    def grade(row, answers):
        seen[row.id] = answers
        return half(row, answers)

    # Of different lengths, so that those of a row are answered in different batches.
    rows = [
        replace(row, questions=(*row.questions, ask(f"And {row.id}, {'again ' * 7}?")))
        for row in ROWS
    ]
    rollout = a_rollout(grade, size=size)
    encoded = rollout.encode(rows)

    results = rollout.roll_out(encoded)

    alone = a_rollout(half, size=1)
    expected = [alone.roll_out([one])[0].answers for one in encoded]
    assert [seen[row.id] for row in rows] == [result.answers for result in results] == expected


def test_what_grading_raises_is_raised_and_leaves_no_thread():
    def grade(row, answers):
        raise ValueError(f"broken at {row.id}")

    rollout = a_rollout(grade)

    with pytest.raises(ValueError, match="broken at row-0"):
        rollout.roll_out(rollout.encode(ROWS))
    assert graders() == []


def test_an_interruption_drops_what_was_not_graded_yet_and_leaves_no_thread():
    begun, interrupted, graded = threading.Event(), threading.Event(), []

    def grade(row, answers):
        begun.set()
        interrupted.wait(PATIENCE)
        graded.append(row.id)
        return half(row, answers)

    def on_forward(rows, forwards=[]):  # noqa: B006, counts over calls
        forwards.append(rows)
        if len(forwards) == 4:
            begun.wait(PATIENCE)
            threading.Timer(0.2, interrupted.set).start()
            raise KeyboardInterrupt

    rollout = a_rollout(grade, on_forward)

    with pytest.raises(KeyboardInterrupt):
        rollout.roll_out(rollout.encode(ROWS))

    assert len(graded) == 1  # of the two answers of the first batch
    assert graders() == []
