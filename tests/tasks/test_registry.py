import subprocess
import sys

import pytest

from esft.errors import TaskError
from esft.tasks.registry import get_task, task_names


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("arc_easy", "did you mean arc-easy"),
        ("ARC", "did you mean arc"),
        ("xyzzy", "see esft tasks; a .jsonl, .csv, .parquet or .py file, or hub:ID, is a task of"),
    ],
)
def test_an_unknown_task_is_refused_with_the_nearest_names(wrong, hint):
    names = f"expected one of: {', '.join(sorted(task_names()))}"

    with pytest.raises(TaskError, match=f"task '{wrong}' is unknown, {names}") as caught:
        get_task(wrong)

    assert caught.value.hint.startswith(hint)


def test_a_file_of_another_kind_is_refused_with_those_that_are_read():
    with pytest.raises(
        TaskError, match=r"my\.xlsx is not .* expected a \.jsonl, \.csv, "
    ) as caught:
        get_task("my.xlsx")

    assert caught.value.hint.endswith("CSV UTF-8")


def test_a_task_with_a_grader_and_columns_of_its_own_takes_no_others():
    with pytest.raises(TaskError, match="task gsm8k has its own grader") as caught:
        get_task("gsm8k", "number")

    assert caught.value.hint == "leave --grader out"
    with pytest.raises(TaskError, match="task gsm8k has its own columns"):
        get_task("gsm8k", columns="prompt=question")


def test_words_come_without_any_task_and_tasks_without_a_heavy_library():
    code = (
        "import sys, esft.tasks.words; print([m for m in sys.modules if m.startswith('esft.t')])\n"
        "import esft.tasks.registry\n"
        "heavy = {'torch', 'transformers', 'datasets', 'huggingface_hub', 'sympy', 'math_verify'}\n"
        "print(heavy & set(sys.modules))"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert loaded.stdout.splitlines() == ["['esft.tasks', 'esft.tasks.words']", "set()"]
