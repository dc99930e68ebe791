import subprocess
import sys

import pytest

from esft.errors import TaskError
from esft.tasks.registry import get_task, task_names
from esft.tasks.words import SCORINGS


@pytest.mark.parametrize("name", task_names())
def test_a_task_is_found_by_its_name_and_is_whole(name):
    task = get_task(name)

    assert task.name == name
    assert task.scorings
    assert set(task.scorings) <= set(SCORINGS)
    assert all((task.summary, task.licence, task.source, task.size, task.grading))


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("ark", "arc"), ("arc_easy", "arc-easy"), ("ARC", "arc"), ("concise", "conciseness")],
)
def test_an_unknown_task_is_refused_with_the_nearest_names(wrong, near):
    names = f"expected one of: {', '.join(sorted(task_names()))}"

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


def test_a_word_of_a_task_is_had_without_any_task():
    code = "import sys, esft.tasks.words; print([m for m in sys.modules if m.startswith('esft.t')])"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "['esft.tasks', 'esft.tasks.words']"


def test_importing_tasks_loads_no_heavy_library():
    heavy = "{'torch', 'transformers', 'datasets', 'huggingface_hub', 'sympy', 'math_verify'}"
    code = f"import sys, esft.tasks.registry; print(sorted({heavy} & set(sys.modules)))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
