"""Every grader agrees with a person on the answers of judged.toml."""

import tomllib
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esft.tasks.benchmarks.answers import grade_gsm8k, grade_proofwriter
from esft.tasks.benchmarks.countdown import grade_countdown
from esft.tasks.graders.numbers import grade_number
from esft.tasks.graders.text import CANDIDATES, grade_short, states
from esft.tasks.task import Option, Row
from esft.tasks.words import GRADERS

TABLE = tomllib.loads((Path(__file__).parent / "judged.toml").read_text("utf-8"))["judged"]
OTHERS = {"short": grade_short, "gsm8k": grade_gsm8k, "proofwriter": grade_proofwriter}


def grade(judged, answer):
    options = [
        Option(context="", continuation=f" {text}", text=text, label=label)
        for label, text in zip("ABCD", judged.get("options", []), strict=False)
    ]
    if judged["grader"] == "countdown":
        facts = {"numbers": tuple(judged["numbers"]), "target": Fraction(judged["target"])}
        return grade_countdown(Row(id="r", questions=(), facts=facts), f"<answer>{answer}</answer>")
    row = Row(id="r", questions=(), answer=judged["answer"], options=tuple(options))
    return (OTHERS.get(judged["grader"]) or GRADERS[judged["grader"]].grade)(row, answer)


def test_the_table_has_enough_of_each_kind():
    assert {judged["grader"] for judged in TABLE} == {*GRADERS, *OTHERS, "countdown"}
    assert sum(len(judged.get("right", [])) for judged in TABLE) >= 150
    assert sum(len(judged["wrong"]) for judged in TABLE) >= 150


@pytest.mark.parametrize(
    "judged", TABLE, ids=lambda judged: f"{judged['grader']}-{judged['answer']}"
)
def test_a_grader_judges_as_a_person_does(judged):
    if judged["grader"] == "math":
        pytest.importorskip("math_verify")
    for verdict in ("right", "wrong"):
        for answer in judged.get(verdict, []):
            graded = grade(judged, answer)

            assert (graded.correct, answer) == (verdict == "right", answer)


PIECES = [
    "not ",
    "B",
    "the sun",
    "18",
    " or ",
    ", ",
    "\n",
    "#### ",
    "\\boxed{",
    "}",
    "$",
    "\\frac",
    "1/2",
    "%",
    "=",
]
PIECES += [
    "The answer is ",
    "^",
    "10",
    "x",
    "e\u0301",
    "\u0336",
    "\ud800",
    "\0",
    "½",
    "٣",
    "- ",
    "(",
    ")",
    "True",
]
WORDS = st.text("abcdefgh", min_size=3, max_size=8)


@settings(max_examples=400)
@given(
    answer=st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join)),
    number=st.integers(0, len(TABLE) - 1),
)
def test_whatever_is_said_a_grade_is_within_bounds(answer, number):
    judged = TABLE[number]
    if judged["grader"] == "math":  # its own test does
        judged = TABLE[0]

    graded = grade(judged, answer)

    assert 0 <= graded.reward <= 1.1
    assert graded.correct in (True, False)
    assert graded.failure is None


@given(
    word=WORDS,
    denial=st.sampled_from(
        [
            "not {}",
            "It is not {}.",
            "It isn't {}",
            "{} is wrong",
            "all but {}",
            "never {}",
            "{} is not it",
        ]
    ),
)
def test_what_is_denied_is_not_stated(word, denial):
    assert states([word], f"It is {word}.")
    assert not states([word], denial.format(word))


@given(
    words=st.lists(WORDS, min_size=CANDIDATES + 1, max_size=12, unique=True),
    joint=st.sampled_from([", ", "; ", "\n", " or ", "/", " | ", ". "]),
    data=st.data(),
)
def test_naming_everything_states_nothing(words, joint, data):
    right = data.draw(st.sampled_from(words))

    assert not states([right], joint.join(words))


@given(
    above=st.integers(-99_999, 99_999),
    below=st.integers(1, 999),
    form=st.sampled_from(["{}/{}", "{} / {}", "so it is {}/{}.", "**{}/{}** apples"]),
)
def test_a_fraction_is_read_in_every_form(above, below, form):
    row = Row(id="r", questions=(), answer=str(Fraction(above, below)))

    assert grade_number(row, form.format(above, below)).correct
    latex = f"{'-' if above < 0 else ''}\\frac{{{abs(above)}}}{{{below}}}"
    assert grade_number(row, latex).correct
