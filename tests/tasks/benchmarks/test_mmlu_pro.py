from pathlib import Path

import pytest

from esft.errors import TaskError
from esft.tasks.benchmarks.mmlu_pro import MMLU_PRO, read_mmlu_pro
from esft.tasks.rows import split_rows
from esft.tasks.task import HubSource

FILES = Path(__file__).parents[1] / "files"


def mmlu_pro_object(count=10, gold=8, **changes):
    row = {
        "question_id": 70,
        "question": "Which gas do leaves take up?\n",
        "options": [f"gas {number}" for number in range(count)],
        "answer": "ABCDEFGHIJ"[gold],
        "answer_index": gold,
        "category": "computer science",
    }
    return {**row, **changes}


def test_a_row_in_the_prompt_form_of_mmlu():
    row = read_mmlu_pro(mmlu_pro_object(count=3, gold=1))

    assert {option.context for option in row.options} == {
        "The following are multiple choice questions (with answers) about computer science.\n\n"
        "Which gas do leaves take up?\nA. gas 0\nB. gas 1\nC. gas 2\nAnswer:"
    }
    assert [option.continuation for option in row.options] == [" A", " B", " C"]
    assert [option.divisor for option in row.options] == [1, 1, 1]
    assert row.gold == 1


@pytest.mark.parametrize(
    ("count", "gold", "letter"),
    [(3, 0, "A"), (3, 2, "C"), (4, 3, "D"), (7, 6, "G"), (10, 8, "I"), (10, 9, "J")],
)
def test_three_to_ten_options_have_the_letters_a_to_j(count, gold, letter):
    row = read_mmlu_pro(mmlu_pro_object(count, gold))

    assert [option.label for option in row.options] == list("ABCDEFGHIJ"[:count])
    assert (row.gold, row.answer, row.questions[0].reference) == (gold, letter, letter)
    assert MMLU_PRO.grade(row, [f"The answer is {letter}."]).correct


def test_a_message_asks_for_the_letter_without_naming_the_category():
    row = read_mmlu_pro(mmlu_pro_object(count=3, gold=2))

    assert row.questions[0].messages[0]["content"] == (
        "Which gas do leaves take up?\n\nA. gas 0\nB. gas 1\nC. gas 2\n\n"
        "Reply with the letter of the right answer alone."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": None}, "column question is None, expected a text"),
        ({"category": ""}, "column category is '', expected a text"),
        ({"options": ["a", "b"]}, r"column options is \['a', 'b'\], expected 3 to 10 options"),
        ({"options": list("abcdefghijk")}, "column options is .*, expected 3 to 10 options"),
        ({"options": ["a", "b", None]}, "column options is .*, expected a list of texts"),
        ({"answer": "A"}, "column answer is 'A', expected I, as answer_index is 8"),
        ({"answer": "i"}, "column answer is 'i', expected I, as answer_index is 8"),
        ({"answer": 8}, "column answer is 8, expected a text"),
        ({"answer_index": 9}, "column answer is 'I', expected J, as answer_index is 9"),
        ({"answer_index": 10}, "answer_index is 10, expected a whole number from 0 to 9"),
        ({"answer_index": "8"}, "answer_index is '8', expected a whole number from 0 to 9"),
        ({"options": list("abcd")}, "answer_index is 8, expected a whole number from 0 to 3"),
    ],
)
def test_a_wrong_row_is_refused_with_column_value_and_what_was_expected(changes, message):
    with pytest.raises(TaskError, match=message):
        read_mmlu_pro(mmlu_pro_object(**changes))


@pytest.mark.parametrize("column", ["question", "options", "answer", "answer_index", "category"])
def test_a_missing_column_is_refused(column):
    raw = mmlu_pro_object()
    del raw[column]

    with pytest.raises(TaskError, match=f"column {column} is missing, the row has: "):
        read_mmlu_pro(raw)


def test_the_validation_rows_are_split_between_tuning_and_holdout():
    split = split_rows(MMLU_PRO, None, None, FILES)

    assert (len(split.train), len(split.holdout)) == (2, 2)


def test_the_task_is_tuned_on_the_validation_split():
    assert MMLU_PRO.splits == {"train": "validation", "test": "test"}
    assert MMLU_PRO.hub == HubSource(id="TIGER-Lab/MMLU-Pro")
    assert (MMLU_PRO.name, MMLU_PRO.file) == ("mmlu-pro", "mmlu_pro")
