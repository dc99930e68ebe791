import subprocess
import sys

import pytest

from esft.errors import TaskError
from esft.tasks import get_task, task_names


def test_all_tasks_are_named_in_order():
    assert task_names() == ["arc", "arc-easy", "conciseness"]


@pytest.mark.parametrize("name", task_names())
def test_a_task_is_found_by_its_name_and_is_whole(name):
    task = get_task(name)

    assert task.name == name
    assert task.scoring in task.scorings
    assert set(task.scorings) <= {"choice", "generate"}
    assert task.max_new_tokens > 0
    assert task.summary
    assert task.licence
    assert task.source


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("ark", "arc"), ("arc_easy", "arc-easy"), ("ARC", "arc"), ("concise", "conciseness")],
)
def test_an_unknown_task_is_refused_with_the_nearest_names(wrong, near):
    names = "expected one of: arc, arc-easy, conciseness"

    with pytest.raises(TaskError, match=f"task '{wrong}' is unknown, {names}") as caught:
        get_task(wrong)

    assert caught.value.hint.startswith(f"did you mean {near}")


def test_an_unknown_task_with_no_near_name_has_no_hint():
    with pytest.raises(TaskError, match="task 'xyzzy' is unknown") as caught:
        get_task("xyzzy")

    assert caught.value.hint is None


def test_importing_tasks_loads_no_heavy_library():
    heavy = "{'torch', 'transformers', 'datasets', 'huggingface_hub'}"
    code = f"import sys, esft.tasks, esft.tasks.rows; print(sorted({heavy} & set(sys.modules)))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
