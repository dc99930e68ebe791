import pytest

from esft.errors import TaskError
from esft.tasks.benchmarks.winogrande import WINOGRANDE, read_winogrande
from esft.tasks.task import HubSource


def winogrande_object(**changes):
    row = {
        "sentence": "The kettle would not fit on the shelf because the _ was too tall.",
        "option1": "kettle",
        "option2": "shelf",
        "answer": "1",
    }
    return {**row, **changes}


def test_a_row_is_scored_partially_as_in_lm_evaluation_harness():
    row = read_winogrande(winogrande_object())

    assert [option.context for option in row.options] == [
        "The kettle would not fit on the shelf because the kettle",
        "The kettle would not fit on the shelf because the shelf",
    ]
    assert {option.continuation for option in row.options} == {" was too tall."}
    assert row.gold == 0


def test_both_options_are_divided_by_1_so_that_acc_norm_is_acc():
    row = read_winogrande(winogrande_object(option1="very large copper kettle"))

    assert [option.divisor for option in row.options] == [1, 1]


@pytest.mark.parametrize(
    ("sentence", "context", "continuation"),
    [
        ("Ask _'s aunt.", "Ask kettle", " 's aunt."),
        ("It is the _ .", "It is the kettle", " ."),
        ("_ is hot.  ", "kettle", " is hot."),
        ("The _ is not a _ here.", "The kettle", " is not a _ here."),
    ],
)
def test_a_sentence_is_cut_at_its_first_blank(sentence, context, continuation):
    option = read_winogrande(winogrande_object(sentence=sentence)).options[0]

    assert (option.context, option.continuation) == (context, continuation)


def test_a_message_asks_what_fits_the_blank():
    row = read_winogrande(winogrande_object(answer="2"))

    assert row.questions[0].messages[0]["content"] == (
        "The kettle would not fit on the shelf because the _ was too tall.\n\n"
        "Which of these fits the blank (_)?\n\n1. kettle\n2. shelf\n\n"
        "Reply with the number of the right answer alone."
    )
    assert (row.answer, row.questions[0].reference, row.gold) == ("2", "2", 1)


def test_twins_that_differ_in_the_last_word_have_different_keys():
    twin = "The kettle would not fit on the shelf because the _ was too low."
    one = read_winogrande(winogrande_object())
    other = read_winogrande(winogrande_object(sentence=twin, answer="2"))

    assert {option.context for option in one.options} == {
        option.context for option in other.options
    }
    assert one.key != other.key
    assert one.id != other.id


def test_the_same_sentence_twice_has_one_key():
    again = read_winogrande(winogrande_object(answer="2"))

    assert again.key == read_winogrande(winogrande_object()).key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentence": "No blank."}, "sentence is 'No blank.', expected a sentence with a blank"),
        ({"sentence": "It is the _"}, "sentence is .*, expected a sentence with a blank .* behind"),
        ({"sentence": "It is the _ "}, "sentence is .*, expected a sentence with a blank"),
        ({"sentence": None}, "column sentence is None, expected a text"),
        ({"option1": ""}, "column option1 is '', expected a text"),
        ({"option2": 2}, "column option2 is 2, expected a text"),
        ({"answer": "0"}, "column answer is '0', expected '1' or '2'"),
        ({"answer": "3"}, "column answer is '3', expected '1' or '2'"),
        ({"answer": ""}, "column answer is '', expected a text"),
        ({"answer": 1}, "column answer is 1, expected a text"),
    ],
)
def test_a_wrong_row_is_refused_with_column_value_and_what_was_expected(changes, message):
    with pytest.raises(TaskError, match=message):
        read_winogrande(winogrande_object(**changes))


@pytest.mark.parametrize("column", ["sentence", "option1", "option2", "answer"])
def test_a_missing_column_is_refused(column):
    raw = winogrande_object()
    del raw[column]

    with pytest.raises(TaskError, match=f"column {column} is missing, the row has: "):
        read_winogrande(raw)


def test_the_task_has_no_test_split_as_its_answers_are_not_public():
    assert WINOGRANDE.hub == HubSource(id="allenai/winogrande", config="winogrande_xl")
    assert (WINOGRANDE.name, WINOGRANDE.file) == ("winogrande", "winogrande")
    assert set(WINOGRANDE.splits) == {"train", "validation"}
