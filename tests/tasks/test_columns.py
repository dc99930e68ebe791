import pytest

from esft.errors import TaskError
from esft.tasks.columns import index_column, is_text, text_column, texts_column

ROW = {"question": "Why?", "number": 3, "choices": {"text": ["a", "b"], "label": "AB"}}


def test_columns_come_back_as_they_are():
    assert text_column(ROW, "question") == "Why?"
    assert texts_column(ROW, "choices.text") == ["a", "b"]


@pytest.mark.parametrize(
    ("read", "name", "message"),
    [
        (text_column, "id", "column id is missing, the row has: question, number, choices"),
        (text_column, "number", "column number is 3, expected a text that is not empty"),
        (text_column, "choices", r"column choices is \{.*expected a text"),
        (texts_column, "choices.label", "column choices.label is 'AB', expected a list of texts"),
        (texts_column, "choices.key", "column choices.key is missing, choices has: text, label"),
        (
            texts_column,
            "question.text",
            "column question is 'Why\\?', expected an object with text",
        ),
    ],
)
def test_a_wrong_column_is_named_with_what_it_holds_and_what_was_expected(read, name, message):
    with pytest.raises(TaskError, match=message):
        read(ROW, name)


@pytest.mark.parametrize("texts", [["a", 2], ["a", ""], ["a", None], None, {"0": "a"}])
def test_a_list_of_texts_holds_texts_alone(texts):
    with pytest.raises(TaskError, match=r"column t is .* expected a list of texts"):
        texts_column({"t": texts}, "t")


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(TaskError) as caught:
        text_column({"t": ["long"] * 10_000}, "t")

    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("value", ["", " \n", None, 3, b"bytes", "half a pair \ud800"])
def test_what_is_no_text(value):
    assert not is_text(value)


@pytest.mark.parametrize("value", ["a", "H₂O", "two\u2028lines", "\U0001f600"])
def test_what_is_text(value):
    assert is_text(value)


def test_a_row_without_columns_is_said_to_have_none():
    with pytest.raises(TaskError, match="the row has: no columns"):
        text_column({}, "question")


@pytest.mark.parametrize("index", [0, 3])
def test_an_index_within_the_options(index):
    assert index_column({"answer": index}, "answer", 4) == index


@pytest.mark.parametrize("wrong", [4, -1, True, False, 1.0, "1", None, [1], 10**99])
def test_an_index_that_is_no_option_is_refused(wrong):
    with pytest.raises(TaskError, match=r"answer is .*, expected a whole number from 0 to 3"):
        index_column({"answer": wrong}, "answer", 4)


def test_a_missing_index_is_refused_with_the_columns_there_are():
    with pytest.raises(TaskError, match="column answer is missing, the row has: question, label"):
        index_column({"question": "Why?", "label": 1}, "answer", 4)
