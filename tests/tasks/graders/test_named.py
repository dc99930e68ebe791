import pytest

from esft.errors import TaskError
from esft.tasks.graders.named import GRADERS, named_grader
from esft.tasks.words import GRADERS as NAMES


def test_the_names_are_those_of_a_recipe():
    assert tuple(GRADERS) == NAMES


@pytest.mark.parametrize(
    ("name", "found"), [(None, "my.jsonl needs a grader"), ("f1", "my.jsonl has grader 'f1'")]
)
def test_a_missing_or_unknown_grader_is_refused_with_what_there_is(name, found):
    with pytest.raises(TaskError, match=f"^{found}, expected one of: exact ") as caught:
        named_grader(name, "my.jsonl")

    assert all(f"{name} ({grader.does})" in str(caught.value) for name, grader in GRADERS.items())
    assert caught.value.hint == "say how answers are graded, such as --grader number"
