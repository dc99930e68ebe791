import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.errors import TaskError
from esft.tasks.benchmarks.arc import read_arc
from esft.tasks.multiple_choice import grade_choice
from esft.tasks.registry import get_task

from ..some_rows import arc_object


def with_options(labels, answer, texts=None):
    texts = [f"text {label}" for label in labels] if texts is None else texts
    return arc_object(1, choices={"text": texts, "label": labels}, answerKey=answer)


def test_a_row_in_the_prompt_form_of_lm_evaluation_harness():
    row = read_arc(arc_object(1))

    assert row.id == "r1"
    assert row.gold == 1
    assert [option.text for option in row.options] == ["dry palms", "wet palms", "oily palms"]
    assert {option.context for option in row.options} == {"Question: Question 1?\nAnswer:"}
    assert [option.continuation for option in row.options] == [
        " dry palms",
        " wet palms",
        " oily palms",
    ]


def test_a_message_lists_the_options_and_asks_for_the_label_alone():
    row = read_arc(arc_object(1))

    assert row.questions[0].messages == (
        {
            "role": "user",
            "content": "Question 1?\n\nA. dry palms\nB. wet palms\nC. oily palms\n\n"
            "Reply with the letter of the right answer alone.",
        },
    )
    assert row.answer == "B"


@pytest.mark.parametrize(
    ("labels", "answer", "gold"),
    [
        (["A", "B", "C"], "C", 2),
        (["A", "B", "C", "D"], "A", 0),
        (["A", "B", "C", "D", "E"], "E", 4),
        (["1", "2", "3"], "3", 2),
        (["1", "2", "3", "4"], "2", 1),
        (["1", "2", "3", "4", "5"], "5", 4),
    ],
)
def test_the_gold_option_is_the_one_with_the_label_of_the_key(labels, answer, gold):
    row = read_arc(with_options(labels, answer))

    assert row.gold == gold
    assert row.options[gold].label == answer
    assert [option.label for option in row.options] == labels
    assert f"\n{answer}. text {answer}\n" in row.questions[0].messages[0]["content"]
    assert ("number" if answer.isdecimal() else "letter") in row.questions[0].messages[0]["content"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (with_options(["A", "B"], "C"), "column answerKey is 'C', expected one of the labels A, B"),
        (with_options(["1", "2"], "A"), "column answerKey is 'A', expected one of the labels 1, 2"),
        (with_options(["A"], "A"), r"choices.text is \['text A'\], expected two options or more"),
        (with_options([], "A"), r"choices.text is \[\], expected two options or more"),
        (with_options(["A", "A"], "A"), "choices.label is .*, expected 2 labels, all different"),
        (
            with_options(["A", "B"], "A", texts=["x", "y", "z"]),
            r"choices.label is \['A', 'B'\], expected 3 labels",
        ),
        (with_options(["A", "B"], 1), "column answerKey is 1, expected a text"),
        (with_options([1, 2], "1"), r"column choices.label is \[1, 2\], expected a list of texts"),
        (arc_object(1, choices=["x", "y"]), "column choices is .*, expected an object with text"),
        (arc_object(1, choices={"text": ["x", "y"]}), "column choices.label is missing"),
        (arc_object(1, question=None), "column question is None, expected a text"),
        (arc_object(1, id=7), "column id is 7, expected a text"),
        ({"id": "r", "stem": "Why?"}, "column question is missing, the row has: id, stem"),
    ],
)
def test_a_wrong_row_is_refused_with_column_value_and_what_was_expected(raw, message):
    with pytest.raises(TaskError, match=message):
        read_arc(raw)


@pytest.mark.parametrize(
    ("answer", "correct"),
    [("B", True), ("wet palms", True), ("The answer is (B).", True), ("A", False), ("", False)],
)
def test_an_answer_is_worth_1_where_it_names_the_right_option(answer, correct):
    score = grade_choice(read_arc(arc_object(1)), answer)

    assert score.correct is correct
    assert score.reward == (1.0 if correct else 0.0)


@given(answer=st.text())
def test_any_answer_gets_a_score(answer):
    score = grade_choice(read_arc(arc_object(1)), answer)

    assert score.reward == float(score.correct)


@pytest.mark.parametrize(
    ("name", "config", "file"),
    [("arc", "ARC-Challenge", "arc_challenge"), ("arc-easy", "ARC-Easy", "arc_easy")],
)
def test_the_two_tasks(name, config, file):
    task = get_task(name)

    assert (task.hub.id, task.hub.config, task.file) == ("allenai/ai2_arc", config, file)
    assert (task.scoring, task.scorings) == ("choice", ("choice", "generate"))
    assert task.max_new_tokens == 16
