"""Prompt forms of lm-evaluation-harness, character for character."""

import pytest

from esft.tasks.registry import get_task

ARC = {
    "id": "r1",
    "question": "What helps?",
    "choices": {"text": ["dry palms", "wet palms", "oily palms"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
HELLASWAG = {
    "activity_label": "Fixing a bicycle",
    "ctx_a": "A woman takes off the wheel.",
    "ctx_b": "then ANNA",
    "endings": ["eats it.", "pulls the tube out.", "swims.", "knits."],
    "label": "1",
}
MMLU = {
    "question": " What is 3 + 4 modulo 5?\n",
    "subject": "abstract_algebra",
    "choices": ["0", "1 ", "2", "3"],
    "answer": 2,
}
MMLU_PRO = {
    "question": "Which gas do leaves take up?\n",
    "options": ["gas 0", "gas 1", "gas 2"],
    "answer": "B",
    "answer_index": 1,
    "category": "computer science",
}
PIQA = {
    "goal": "Dry wet boots.",
    "sol1": "Fill them with gravel. ",
    "sol2": "Fill them with newspaper.",
    "label": 1,
}
WINOGRANDE = {
    "sentence": "The kettle would not fit on the shelf because the _ was too tall.",
    "option1": "kettle",
    "option2": "shelf",
    "answer": "2",
}
EXAM = "The following are multiple choice questions (with answers) about "
LETTER = "\n\nReply with the letter of the right answer alone."
FORMS = {
    "arc": (
        ARC,
        "Question: What helps?\nAnswer:",
        {" dry palms": 9, " wet palms": 9, " oily palms": 10},
        "What helps?\n\nA. dry palms\nB. wet palms\nC. oily palms" + LETTER,
    ),
    "hellaswag": (
        HELLASWAG,
        "Fixing a bicycle: A woman takes off the wheel. Then anna",
        {" eats it.": 8, " pulls the tube out.": 19, " swims.": 6, " knits.": 6},
        "Fixing a bicycle: A woman takes off the wheel. Then anna\n\nWhich of these comes next?\n\n"
        "A. eats it.\nB. pulls the tube out.\nC. swims.\nD. knits." + LETTER,
    ),
    "mmlu": (
        MMLU,
        EXAM + "abstract algebra.\n\nWhat is 3 + 4 modulo 5?\nA. 0\nB. 1 \nC. 2\nD. 3\nAnswer:",
        {" A": 1, " B": 1, " C": 1, " D": 1},
        "What is 3 + 4 modulo 5?\n\nA. 0\nB. 1\nC. 2\nD. 3" + LETTER,
    ),
    "mmlu-pro": (
        MMLU_PRO,
        EXAM + "computer science.\n\n"
        "Which gas do leaves take up?\nA. gas 0\nB. gas 1\nC. gas 2\nAnswer:",
        {" A": 1, " B": 1, " C": 1},
        "Which gas do leaves take up?\n\nA. gas 0\nB. gas 1\nC. gas 2" + LETTER,
    ),
    "piqa": (
        PIQA,
        "Question: Dry wet boots.\nAnswer:",
        {" Fill them with gravel. ": 23, " Fill them with newspaper.": 25},
        "Dry wet boots.\n\nA. Fill them with gravel.\nB. Fill them with newspaper." + LETTER,
    ),
}


def row_of(name, raw, **changes):
    return get_task(name).read({**raw, **changes})


def message_of(row):
    ((message,),) = [question.messages for question in row.questions]
    return message["content"]


@pytest.mark.parametrize("name", FORMS)
def test_one_context_options_with_their_divisors_and_a_message(name):
    raw, context, options, message = FORMS[name]

    row = row_of(name, raw)

    assert {option.context for option in row.options} == {context}
    assert {option.continuation: option.divisor for option in row.options} == options
    assert message_of(row) == message
    assert row.options[row.gold].label == row.answer == row.questions[0].reference


def test_winogrande_is_scored_partially_as_the_harness_does():
    row = row_of("winogrande", WINOGRANDE)

    begun = "The kettle would not fit on the shelf because the "
    assert [option.context for option in row.options] == [begun + "kettle", begun + "shelf"]
    assert {option.continuation for option in row.options} == {" was too tall."}
    assert {option.divisor for option in row.options} == {1}
    assert message_of(row) == (
        "The kettle would not fit on the shelf because the _ was too tall.\n\n"
        "Which of these fits the blank (_)?\n\n1. kettle\n2. shelf\n\n"
        "Reply with the number of the right answer alone."
    )
    assert (row.answer, row.gold) == ("2", 1)


@pytest.mark.parametrize(
    ("sentence", "context", "continuation"),
    [
        ("Ask _'s aunt.", "Ask kettle", " 's aunt."),
        ("It is the _ .", "It is the kettle", " ."),
        ("_ is hot.  ", "kettle", " is hot."),
        ("The _ is not a _ here.", "The kettle", " is not a _ here."),
    ],
)
def test_a_sentence_of_winogrande_is_cut_at_its_first_blank(sentence, context, continuation):
    option = row_of("winogrande", WINOGRANDE, sentence=sentence).options[0]

    assert (option.context, option.continuation) == (context, continuation)


def test_twins_of_winogrande_that_differ_in_the_last_word_have_different_keys():
    one = row_of("winogrande", WINOGRANDE)
    twin = row_of("winogrande", WINOGRANDE, sentence=WINOGRANDE["sentence"].replace("tall", "low"))

    assert one.key != twin.key
    assert one.key == row_of("winogrande", WINOGRANDE, answer="1").key


def test_the_markers_of_wikihow_are_dropped_as_the_harness_drops_them():
    begun = "[header] How to store apples [title] Choose firm ones. [step] Look at each."
    endings = ["[substeps] Eat.  Them.", "Wrap [title] Cool [step] Dry", " x[a] b ", "[a]c   d"]

    row = row_of(
        "hellaswag", HELLASWAG, activity_label="Home", ctx_a=begun, ctx_b="", endings=endings
    )

    assert row.options[0].context == "Home: How to store apples. Choose firm ones. Look at each."
    texts = [" Eat. Them.", "Wrap. Cool Dry", "x b", "c  d"]
    assert [option.text for option in row.options] == texts


@pytest.mark.parametrize(
    ("name", "raw", "column", "gold"),
    [
        ("arc", ARC, {"answerKey": "C"}, 2),
        ("hellaswag", HELLASWAG, {"label": "3"}, 3),
        ("hellaswag", HELLASWAG, {"label": 3}, 3),
        ("mmlu", MMLU, {"answer": 0}, 0),
        ("mmlu-pro", MMLU_PRO, {"answer": "C", "answer_index": 2}, 2),
        ("piqa", PIQA, {"label": 0}, 0),
        ("winogrande", WINOGRANDE, {"answer": "1"}, 0),
    ],
)
def test_the_right_option_is_what_the_column_says(name, raw, column, gold):
    assert row_of(name, raw, **column).gold == gold


def test_labels_of_arc_may_be_numbers():
    labels = {"text": ["x", "y", "z", "a", "b"], "label": list("12345")}

    row = row_of("arc", ARC, choices=labels, answerKey="5")

    assert row.gold == 4
    assert message_of(row).endswith("\n5. b\n\nReply with the number of the right answer alone.")


def test_equal_choices_of_mmlu_are_told_apart_by_their_letters_alone():
    row = row_of("mmlu", MMLU, choices=["6", "6", "7", "8"], answer=0)
    grade = get_task("mmlu").grade

    assert [grade(row, [said]).correct for said in ("A", "B", "6")] == [True, False, False]


def test_ids_and_keys_of_rows_that_share_a_question():
    mmlu, others = row_of("mmlu", MMLU), row_of("mmlu", MMLU, choices=["5", "6", "2", "7"])
    piqa, another = row_of("piqa", PIQA), row_of("piqa", PIQA, sol1="Tap them.")

    assert mmlu.id != others.id
    assert mmlu.key != others.key  # the context lists the choices
    assert piqa.id != another.id
    assert piqa.key == another.key
