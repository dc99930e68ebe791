import json
from pathlib import Path

import pytest

from esft.errors import TaskError
from esft.tasks.columns import is_text, text_column
from esft.tasks.registry import get_task

FILES = Path(__file__).parent / "files"
MADE = {"prompt": "27+58", "answer": "85"}
COLUMNS = {
    "arc": "question choices answerKey id",
    "hellaswag": "activity_label ctx_a ctx_b endings label",
    "mmlu": "question choices subject answer",
    "mmlu-pro": "question options answer answer_index category",
    "piqa": "goal sol1 sol2 label",
    "winogrande": "sentence option1 option2 answer",
    "gsm8k": "question answer",
    "math-500": "problem unique_id answer solution",
    "proofwriter": "theory question answer",
    "nq-open": "question answer",
    "trivia-qa": "question question_id answer",
    "conciseness": "prompt answer",
    "countdown": "numbers target",
    "add-two-digits": "prompt answer",
}


def raw_row(name, **changes):
    """The first row of the small files of a task, with changes."""
    file = next(iter(sorted(FILES.glob(f"{get_task(name).file}.*.jsonl"))), None)
    raw = MADE if file is None else json.loads(file.read_text().partition("\n")[0])
    return {**raw, **changes}


@pytest.mark.parametrize(
    ("name", "column"),
    [(name, column) for name, columns in COLUMNS.items() for column in columns.split()],
)
def test_a_column_that_is_missing_or_of_another_type_is_named(name, column):
    without = raw_row(name)
    del without[column]

    with pytest.raises(TaskError, match=rf"column {column} is missing, the row has: \w+"):
        get_task(name).read(without)
    with pytest.raises(TaskError, match=rf"column {column} is \[0\.5\], expected "):
        get_task(name).read(raw_row(name, **{column: [0.5]}))


def choices(texts, labels):
    return {"choices": {"text": texts, "label": labels}, "answerKey": labels[0] if labels else "A"}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("arc", {"answerKey": "Z"}, "answerKey is 'Z', expected one of A, B, C"),
        ("arc", choices(["x"], ["A"]), r"choices.text is \['x'\], expected two options or more"),
        ("arc", choices(["x", "y"], ["A", "A"]), "choices.label is .*, expected 2 labels, all d"),
        ("arc", {"choices": {"text": ["x", "y"]}}, "column choices.label is missing, choices has"),
        ("hellaswag", {"ctx_b": None}, "ctx_b is None, expected a text"),
        ("hellaswag", {"endings": list("abc")}, "endings is .*, expected 4 endings"),
        ("hellaswag", {"endings": ["a", "b", "[x] [y]", "c"]}, "expected 4 endings, each more tha"),
        ("hellaswag", {"label": "²"}, "label is '²', expected a whole number from 0 to 3"),
        ("hellaswag", {"label": True}, "label is True, expected a whole number from 0 to 3"),
        ("mmlu", {"choices": list("abc")}, r"choices is \['a', 'b', 'c'\], expected 4 choices"),
        ("mmlu-pro", {"options": list("abcdefghijk")}, "options is .*, expected 3 to 10 options"),
        ("mmlu-pro", {"answer": "A"}, "answer is 'A', expected B, as answer_index is 1"),
        ("piqa", {"label": 2}, "label is 2, expected a whole number from 0 to 1"),
        ("piqa", {"label": -1}, "label is -1, expected a whole number from 0 to 1"),
        ("winogrande", {"sentence": "No blank."}, "expected a sentence with a blank"),
        ("winogrande", {"sentence": "It is the _ "}, "expected a sentence with a blank .* behind"),
        ("winogrande", {"answer": "3"}, "answer is '3', expected one of 1, 2"),
        ("gsm8k", {"answer": "It is 18."}, "answer is 'It is 18.', expected a solution whose last"),
        ("gsm8k", {"answer": "#### 1,08"}, "expected a solution whose last line is #### and a"),
        ("proofwriter", {"answer": "true"}, "answer is 'true', expected one of True, False, Unkn"),
        ("proofwriter", {"id": 4}, "id is 4, expected a text"),
        ("nq-open", {"answer": []}, r"answer is \[\], expected one answer or more"),
        ("trivia-qa", {"answer": {"value": "x"}}, "column answer.aliases is missing, answer has: "),
        ("countdown", {"numbers": [1]}, r"numbers is \[1\], expected 2 to 6 whole numbers from 0"),
        ("countdown", {"numbers": [1] * 7}, "numbers is .*, expected 2 to 6 whole numbers"),
        ("countdown", {"numbers": [1, 1_000_000]}, r"is \[1, 1000000\], expected .* to 999,999"),
        ("countdown", {"numbers": [1, True]}, r"numbers is \[1, True\], expected"),
        ("countdown", {"target": True}, "target is True, expected a number, or a text with one"),
        ("countdown", {"target": "1/3"}, "target is '1/3', expected a number"),
        ("countdown", {"target": "٩"}, "target is '٩', expected a number"),
        ("countdown", {"target": float("nan")}, "target is nan, expected a number"),
        ("countdown", {"solution": 85}, "solution is 85, expected an expression, or null"),
        ("countdown", {"id": 1.5}, "id is 1.5, expected a text or a whole number"),
    ],
)
def test_a_wrong_value_is_refused_with_its_column_and_what_was_expected(name, changes, message):
    with pytest.raises(TaskError, match=message):
        get_task(name).read(raw_row(name, **changes))


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(TaskError) as caught:
        text_column({"t": ["long"] * 10_000}, "t")

    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("value", ["", " \n", None, 3, b"bytes", "half a pair \ud800"])
def test_texts_have_something_that_utf8_can_hold(value):
    assert not is_text(value)
    assert is_text("H₂O\u2028\U0001f600")
