import subprocess
import sys

import pytest

from esft.errors import TaskError
from esft.tasks.registry import get_task, task_names

NAMES = [
    "add-two-digits",
    "arc",
    "arc-easy",
    "conciseness",
    "copy-letters",
    "count-letter",
    "countdown",
    "countdown-3to4",
    "gsm8k",
    "hellaswag",
    "largest-digit",
    "math-500",
    "mmlu",
    "mmlu-pro",
    "nq-open",
    "piqa",
    "proofwriter",
    "reverse-letters",
    "sort-digits",
    "subtract-two-digits",
    "trivia-qa",
    "upper-letters",
    "winogrande",
]


def test_all_tasks_are_named_in_order():
    assert task_names() == NAMES


@pytest.mark.parametrize("name", task_names())
def test_a_task_is_found_by_its_name_and_is_whole(name):
    task = get_task(name)

    assert task.name == name
    assert task.scoring in task.scorings
    assert set(task.scorings) <= {"choice", "generate", "exact"}
    assert task.max_new_tokens > 0
    assert task.summary
    assert task.licence
    assert task.source
    assert task.size
    assert task.grading
    assert task.max_reward >= 1


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("ark", "arc"), ("arc_easy", "arc-easy"), ("ARC", "arc"), ("concise", "conciseness")],
)
def test_an_unknown_task_is_refused_with_the_nearest_names(wrong, near):
    names = f"expected one of: {', '.join(NAMES)}"

    with pytest.raises(TaskError, match=f"task '{wrong}' is unknown, {names}") as caught:
        get_task(wrong)

    assert caught.value.hint.startswith(f"did you mean {near}")


def test_an_unknown_task_with_no_near_name_points_at_the_list_and_at_own_files():
    with pytest.raises(TaskError, match="task 'xyzzy' is unknown") as caught:
        get_task("xyzzy")

    assert caught.value.hint == "see esft tasks; a .jsonl or .py file is a task of your own"


def test_a_task_with_a_grader_of_its_own_takes_no_other():
    with pytest.raises(TaskError, match="task gsm8k has a grader of its own") as caught:
        get_task("gsm8k", "number")

    assert caught.value.hint == "leave --grader out"


def test_importing_tasks_loads_no_heavy_library():
    heavy = "{'torch', 'transformers', 'datasets', 'huggingface_hub', 'sympy', 'math_verify'}"
    code = f"import sys, esft.tasks, esft.tasks.rows; print(sorted({heavy} & set(sys.modules)))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
