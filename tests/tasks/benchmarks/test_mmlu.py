import pytest

from esft.errors import TaskError
from esft.tasks.benchmarks.mmlu import MMLU, read_mmlu
from esft.tasks.task import HubSource


def mmlu_object(**changes):
    row = {
        "question": " What is 3 + 4 modulo 5?\n",
        "subject": "abstract_algebra",
        "choices": ["0", "1 ", "2", "3"],
        "answer": 2,
    }
    return {**row, **changes}


def test_a_row_in_the_prompt_form_of_lm_evaluation_harness():
    row = read_mmlu(mmlu_object())

    assert {option.context for option in row.options} == {
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "What is 3 + 4 modulo 5?\nA. 0\nB. 1 \nC. 2\nD. 3\nAnswer:"
    }
    assert [option.continuation for option in row.options] == [" A", " B", " C", " D"]
    assert row.gold == 2


def test_options_keep_their_texts_and_are_divided_by_the_length_of_their_letters():
    row = read_mmlu(mmlu_object(choices=["zero", "one", "two", "three"]))

    assert [option.text for option in row.options] == ["zero", "one", "two", "three"]
    assert [option.divisor for option in row.options] == [1, 1, 1, 1]


def test_a_message_asks_for_the_letter_without_naming_the_subject():
    row = read_mmlu(mmlu_object())

    assert row.questions[0].messages[0]["content"] == (
        "What is 3 + 4 modulo 5?\n\nA. 0\nB. 1\nC. 2\nD. 3\n\n"
        "Reply with the letter of the right answer alone."
    )
    assert (row.answer, row.questions[0].reference) == ("C", "C")


def test_an_answer_that_is_a_number_names_the_choice_of_this_text():
    row = read_mmlu(mmlu_object())

    assert MMLU.grade(row, ["2"]).correct
    assert not MMLU.grade(row, ["3"]).correct


def test_equal_choices_are_told_apart_by_their_letters_alone():
    row = read_mmlu(mmlu_object(choices=["6", "6", "7", "8"], answer=0))

    assert MMLU.grade(row, ["A"]).correct
    assert not MMLU.grade(row, ["B"]).correct
    assert not MMLU.grade(row, ["6"]).correct


def test_questions_of_one_text_with_other_choices_have_different_keys_and_ids():
    one, other = read_mmlu(mmlu_object()), read_mmlu(mmlu_object(choices=["5", "6", "2", "7"]))

    assert one.key != other.key
    assert one.id != other.id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ""}, "column question is '', expected a text"),
        ({"subject": None}, "column subject is None, expected a text"),
        ({"choices": ["a", "b", "c"]}, r"choices is \['a', 'b', 'c'\], expected 4 choices"),
        ({"choices": list("abcde")}, "column choices is .*, expected 4 choices"),
        ({"choices": [1, 2, 3, 4]}, r"column choices is \[1, 2, 3, 4\], expected a list of texts"),
        ({"choices": ["a", "b", "c", ""]}, "column choices is .*, expected a list of texts that"),
        ({"answer": 4}, "column answer is 4, expected a whole number from 0 to 3"),
        ({"answer": -1}, "column answer is -1, expected a whole number from 0 to 3"),
        ({"answer": "C"}, "column answer is 'C', expected a whole number from 0 to 3"),
    ],
)
def test_a_wrong_row_is_refused_with_column_value_and_what_was_expected(changes, message):
    with pytest.raises(TaskError, match=message):
        read_mmlu(mmlu_object(**changes))


@pytest.mark.parametrize("column", ["question", "subject", "choices", "answer"])
def test_a_missing_column_is_refused(column):
    raw = mmlu_object()
    del raw[column]

    with pytest.raises(TaskError, match=f"column {column} is missing, the row has: "):
        read_mmlu(raw)


def test_the_task_is_tuned_on_the_dev_split():
    assert MMLU.splits == {"train": "dev", "validation": "validation", "test": "test"}
    assert MMLU.hub == HubSource(id="cais/mmlu", config="all")
    assert (MMLU.name, MMLU.file) == ("mmlu", "mmlu")
