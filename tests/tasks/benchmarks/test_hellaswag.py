import pytest

from esft.errors import TaskError
from esft.tasks.benchmarks.hellaswag import HELLASWAG, read_hellaswag
from esft.tasks.task import HubSource


def hellaswag_object(**changes):
    row = {
        "activity_label": "Fixing a bicycle",
        "ctx_a": "A woman takes off the wheel.",
        "ctx_b": "then ANNA",
        "endings": ["eats it.", "pulls the tube out.", "swims.", "knits."],
        "label": "1",
    }
    return {**row, **changes}


def test_a_row_in_the_prompt_form_of_lm_evaluation_harness():
    row = read_hellaswag(hellaswag_object())

    assert {option.context for option in row.options} == {
        "Fixing a bicycle: A woman takes off the wheel. Then anna"
    }
    assert [option.continuation for option in row.options] == [
        " eats it.",
        " pulls the tube out.",
        " swims.",
        " knits.",
    ]
    assert [option.divisor for option in row.options] == [8, 19, 6, 6]
    assert row.gold == 1


def test_the_markers_of_wikihow_are_dropped_as_lm_evaluation_harness_drops_them():
    begun = "[header] How to store apples [title] Choose firm ones. [step] Look at each."
    endings = ["[substeps] Eat.  Them.", "Wrap [title] Cool [step] Dry", " x[a] b ", "[a]c   d"]

    row = read_hellaswag(
        hellaswag_object(activity_label="Home", ctx_a=begun, ctx_b="", endings=endings)
    )

    assert row.options[0].context == ("Home: How to store apples. Choose firm ones. Look at each.")
    assert [option.text for option in row.options] == [
        " Eat. Them.",
        "Wrap. Cool Dry",
        "x b",
        "c  d",
    ]
    assert row.options[0].continuation == "  Eat. Them."


def test_a_message_asks_what_comes_next():
    row = read_hellaswag(hellaswag_object(ctx_b=""))

    assert row.questions[0].messages[0]["content"] == (
        "Fixing a bicycle: A woman takes off the wheel.\n\nWhich of these comes next?\n\n"
        "A. eats it.\nB. pulls the tube out.\nC. swims.\nD. knits.\n\n"
        "Reply with the letter of the right answer alone."
    )
    assert row.answer == "B"


@pytest.mark.parametrize(("label", "gold"), [("0", 0), ("3", 3), (0, 0), (3, 3)])
def test_a_label_is_a_text_on_the_hub_and_an_int_in_the_original(label, gold):
    row = read_hellaswag(hellaswag_object(label=label))

    assert row.gold == gold
    assert row.answer == "ABCD"[gold]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activity_label": ""}, "column activity_label is '', expected a text"),
        ({"ctx_a": ""}, "column ctx_a is '', expected a text"),
        ({"ctx_b": None}, "column ctx_b is None, expected a text"),
        ({"endings": "abcd"}, "column endings is 'abcd', expected a list of texts"),
        ({"endings": ["a", "b", "c"]}, r"endings is \['a', 'b', 'c'\], expected 4 endings"),
        ({"endings": list("abcde")}, "endings is .*, expected 4 endings"),
        ({"endings": ["a", "b", "c", ""]}, "endings is .*, expected a list of texts that are not"),
        ({"endings": ["a", "b", "c", "[header]"]}, "endings is .*, expected endings that are more"),
        ({"endings": ["a", "b", "[a] [b]", "c"]}, "endings is .*, expected endings that are more"),
        ({"label": ""}, "column label is '', expected a whole number from 0 to 3"),
        ({"label": "4"}, "column label is '4', expected a whole number from 0 to 3"),
        ({"label": "01"}, "column label is '01', expected a whole number from 0 to 3"),
        ({"label": "²"}, "column label is '²', expected a whole number from 0 to 3"),
        ({"label": 4}, "column label is 4, expected a whole number from 0 to 3"),
        ({"label": True}, "column label is True, expected a whole number from 0 to 3"),
        ({"label": None}, "column label is None, expected a whole number from 0 to 3"),
    ],
)
def test_a_wrong_row_is_refused_with_column_value_and_what_was_expected(changes, message):
    with pytest.raises(TaskError, match=message):
        read_hellaswag(hellaswag_object(**changes))


@pytest.mark.parametrize("column", ["activity_label", "ctx_a", "ctx_b", "endings", "label"])
def test_a_missing_column_is_refused(column):
    raw = hellaswag_object()
    del raw[column]

    with pytest.raises(TaskError, match=f"column {column} is missing, the row has: "):
        read_hellaswag(raw)


def test_the_task_has_no_test_split_as_its_answers_are_not_public():
    assert HELLASWAG.hub == HubSource(id="Rowan/hellaswag")
    assert (HELLASWAG.name, HELLASWAG.file) == ("hellaswag", "hellaswag")
    assert set(HELLASWAG.splits) == {"train", "validation"}
