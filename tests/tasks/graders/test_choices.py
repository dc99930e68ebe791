import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.tasks.graders.choices import parse_label

LABELS = ["A", "B", "C", "D"]
TEXTS = ["dry palms", "wet palms", "palms covered with oil", "palms"]
NUMBERS = ["1", "2", "3", "4"]
LEGS = ["3 legs", "4 legs", "2 legs", "8 legs"]
LISTED = "\n".join(f"{label}. {text}" for label, text in zip(LABELS, TEXTS, strict=True))

B_NAMED = [
    "B",
    " b\n",
    "**B**",
    "“B”",
    r"$\boxed{B}$",
    "answer: b",
    "Answer:\nB",
    "The answer is B.",
]
B_NAMED += ["The answer is option (b)", "B) wet palms", "b) wet palms", "B. Because A is wrong"]
B_NAMED += ["B, since A and C are wrong", "wet palms", "Wet  Palms."]
OTHERS_NAMED = [
    ("The answer is a.", "A"),
    ("Option A is correct", "A"),
    ("The correct answer is: **(C)**", "C"),
    ("It is palms covered with oil", "C"),
    ("I'd go with D.", "D"),
    (f"{LISTED}\nThe answer is D.", "D"),
]
NONE_OR_MORE_NAMED = ["", " ...", "none of these", "The answer is a plant", "The answer is A plant"]
NONE_OR_MORE_NAMED += ["B or C", "both A and B"]
NONE_OR_MORE_NAMED += ["A. Or the answer is B or C", "It is not option B", "dry palms or wet palms"]
NONE_OR_MORE_NAMED += ["I choose A, wet palms", LISTED]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        *((answer, "B") for answer in B_NAMED),
        *OTHERS_NAMED,
        *((answer, None) for answer in NONE_OR_MORE_NAMED),
    ],
)
def test_an_answer_that_names_one_option_and_no_other(answer, label):
    assert parse_label(answer, LABELS, TEXTS) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("(3)", "3"),
        ("The answer is 3", "3"),
        ("2. 4 legs", "2"),
        ("3 legs", "1"),
        ("The answer is 3 legs", "1"),
        ("3.5", None),
        ("1-2", None),
        ("7 legs", None),
    ],
)
def test_labels_that_are_numbers_are_told_from_numbers_in_the_answer(answer, label):
    assert parse_label(answer, NUMBERS, LEGS) == label


def test_a_label_comes_before_an_option_of_the_same_text_and_a_whole_text_before_a_label_in_it():
    assert parse_label("3", NUMBERS, ["3", "1", "2", "4"]) == "3"
    assert parse_label("Vitamin C.", LABELS, ["iron", "vitamin C", "oil", "salt"]) == "B"


@pytest.mark.parametrize(
    ("answer", "texts"), [("wet", ["wet", "Wet."]), ("", ["()", "dry"]), ("?", ["+", "dry"])]
)
def test_options_of_equal_text_or_of_marks_alone_are_not_named_by_it(answer, texts):
    assert parse_label(answer, ["A", "B"], texts) is None


@given(
    words=st.lists(
        st.sampled_from(["A", "B", "a", "3", "answer", "is", "not", "or", "\n", ".", ":", "palms"])
    ),
    gap=st.sampled_from(["", " ", "\n"]),
)
def test_any_mix_of_the_words_that_count_names_an_option_or_none(words, gap):
    assert parse_label(gap.join(words), LABELS, TEXTS) in {*LABELS, None}
    assert parse_label(gap.join(words), NUMBERS, LEGS) in {*NUMBERS, None}


@given(
    label=st.sampled_from(LABELS),
    before=st.text("*_`\"'()[]<>.,:;! \n"),
    after=st.text("*_`\"'()[]<>.,:;! \n"),
)
def test_marks_around_a_label_change_nothing(label, before, after):
    assert parse_label(before + label + after, LABELS, TEXTS) == label


@pytest.mark.parametrize(
    "piece", ["A ", "answer is ", "not ", "\n", "1.", "1,1", "a'", "palms ", "\0"]
)
def test_a_long_answer_takes_no_longer_than_its_length_asks_for(piece):
    answer = piece * (100_000 // len(piece))
    start = time.process_time()

    parse_label(answer, LABELS, [*TEXTS[:3], "palms " * 20 + "no"])
    parse_label(answer, NUMBERS, LEGS)

    assert time.process_time() - start < 3  # quadratic time would be minutes
