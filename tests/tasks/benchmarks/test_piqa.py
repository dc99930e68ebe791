import pytest

from esft.errors import TaskError
from esft.tasks.benchmarks.piqa import PIQA, read_piqa
from esft.tasks.task import HubSource


def piqa_object(**changes):
    row = {
        "goal": "Dry wet boots.",
        "sol1": "Fill them with gravel. ",
        "sol2": "Fill them with newspaper.",
        "label": 1,
    }
    return {**row, **changes}


def test_a_row_in_the_prompt_form_of_lm_evaluation_harness():
    row = read_piqa(piqa_object())

    assert {option.context for option in row.options} == {"Question: Dry wet boots.\nAnswer:"}
    assert [option.continuation for option in row.options] == [
        " Fill them with gravel. ",
        " Fill them with newspaper.",
    ]
    assert [option.divisor for option in row.options] == [23, 25]
    assert row.gold == 1


def test_a_message_asks_for_one_of_two_letters():
    row = read_piqa(piqa_object())

    assert row.questions[0].messages[0]["content"] == (
        "Dry wet boots.\n\nA. Fill them with gravel.\nB. Fill them with newspaper.\n\n"
        "Reply with the letter of the right answer alone."
    )
    assert row.answer == "B"
    assert read_piqa(piqa_object(label=0)).answer == "A"


def test_rows_of_one_goal_with_other_solutions_differ_in_id_and_share_the_key():
    one, other = read_piqa(piqa_object()), read_piqa(piqa_object(sol1="Tap them."))

    assert one.id != other.id
    assert one.key == other.key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"goal": None}, "column goal is None, expected a text"),
        ({"goal": " "}, "column goal is ' ', expected a text"),
        ({"sol1": ""}, "column sol1 is '', expected a text"),
        ({"sol2": ["x"]}, r"column sol2 is \['x'\], expected a text"),
        ({"label": 2}, "column label is 2, expected a whole number from 0 to 1"),
        ({"label": -1}, "column label is -1, expected a whole number from 0 to 1"),
        ({"label": "1"}, "column label is '1', expected a whole number from 0 to 1"),
    ],
)
def test_a_wrong_row_is_refused_with_column_value_and_what_was_expected(changes, message):
    with pytest.raises(TaskError, match=message):
        read_piqa(piqa_object(**changes))


@pytest.mark.parametrize("column", ["goal", "sol1", "sol2", "label"])
def test_a_missing_column_is_refused(column):
    raw = piqa_object()
    del raw[column]

    with pytest.raises(TaskError, match=f"column {column} is missing, the row has: "):
        read_piqa(raw)


def test_the_task_reads_the_copy_that_lm_evaluation_harness_reads():
    assert PIQA.hub == HubSource(id="baber/piqa")
    assert (PIQA.name, PIQA.file) == ("piqa", "piqa")
    assert set(PIQA.splits) == {"train", "validation"}
