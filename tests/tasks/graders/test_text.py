import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.tasks.graders import text as graders
from esft.tasks.graders.text import LONGEST, first_line, normalised
from esft.tasks.task import Row, ask

NORMALISED = [
    ("  New   Delhi\t", "new delhi"),
    ("The Beatles", "beatles"),
    ("A Tale of the Two Cities", "tale of two cities"),
    ("Seine-Maritime", "seine maritime"),
    ("Dieppe (France)", "dieppe france"),
    ("U.S.A.", "usa"),
    ("He Ain't Heavy", "he aint heavy"),
    ("1,080", "1080"),
    ("3.5.", "3.5"),
    ("$5", "5"),
    ("“quoted”", "quoted"),
    ("A\u030asa", "åsa"),
    ("Straße", "strasse"),
    ("हिन्दी", "हिन्दी"),
    ("Ｋ２", "k2"),
    ("🐕", "🐕"),
    ("The The", "the the"),
    ("?!", "?!"),
    (" \n", ""),
]
RIGHT = ["Ida Holm", "ida holm.", "  The Ida-Holm!\n", "IDA HOLM\nwas a painter."]
RIGHT += ["answer:Ida Holm", "**Answer:** Ida Holm", "Answer:\n\nIda Holm"]
RIGHT += ["The answer is Ida Holm.", "The final answer is: Ida Holm", "\n\nI. Holm", "Åsa"]
WRONG = [
    ("Ida", 2 / 3),
    ("Holm Ida", 1.0),
    ("Holm Holm Holm", 0.4),
    ("It was Ida Holm", 2 / 3),
    ("Bo Holm\nIda Holm", 0.5),
    ("Bo Ek", 0.0),
    ("Asa", 0.0),
    ("", 0.0),
    ("Answer:", 0.0),
    ("the", 0.0),
    ("\0", 0.0),
    ("\ud800", 0.0),
]
LONG_PIECES = ["Ida ", "\u0301\u0323", "ﷺ", " ", "\n", "*", "the ", "Answer:", "1,", ".", "a a b"]


def a_row(answer="Ida Holm", *accepted):
    return Row(id="r", questions=(ask("Q?"),), answer=answer, accepted=accepted)


@pytest.mark.parametrize(
    ("grader", "right", "answer", "correct"),
    [
        ("exact", "Paris", " \n paris\t", True),
        ("exact", "New York", "new \n  york", True),
        ("exact", "Straße", "STRASSE", True),
        ("exact", "Paris", "Paris.", False),
        ("exact", "New York", "NewYork", False),
        ("contains", "Paris", "The capital is PARIS.", True),
        ("contains", "New York", "in New\n York, of course", True),
        ("contains", "8", "3 + 5 = 8", True),
        ("contains", "C++", "C++ it is", True),
        ("contains", "Paris", "Parisian", False),
        ("contains", "8", "18", False),
        ("contains", "8", "8.5", False),
        ("contains", "8", "3.8", False),
        ("contains", "New York", "New Jersey, not York", False),
    ],
)
def test_exact_is_the_whole_text_and_contains_whole_words_in_it(grader, right, answer, correct):
    grade = getattr(graders, f"grade_{grader}")(a_row("another", right), answer)

    assert (grade.reward, grade.correct) == (float(correct), correct)


@pytest.mark.parametrize(("text", "plain"), NORMALISED)
def test_texts_are_compared_without_case_punctuation_and_articles(text, plain):
    assert normalised(text) == plain


@given(text=st.text())
def test_a_text_with_anything_in_it_has_something_to_compare(text):
    plain = normalised(text)

    assert bool(plain) is bool(text.split())
    assert plain == " ".join(plain.split())


@pytest.mark.parametrize(
    ("answer", "reward", "correct"),
    [*((answer, 1.0, True) for answer in RIGHT), *((*wrong, False) for wrong in WRONG)],
)
def test_a_short_answer_is_worth_the_words_it_shares_with_the_nearest(answer, reward, correct):
    grade = graders.grade_short(a_row("Ida Holm", "I. Holm", "Åsa"), answer)

    assert (grade.reward, grade.correct) == (pytest.approx(reward, abs=1e-12), correct)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("\n \n one\ntwo", "one"),
        ("Answer me", "Answer me"),
        ("My answer is one", "My answer is one"),
        ("The answer isn't one", "The answer isn't one"),
        ("Answer: Answer: one", "Answer: one"),
        # Marks over one letter take quadratic time to normalise: 20 s for 100 kB of them.
        ("x" * LONGEST + "\u0301\u0323", "x" * LONGEST),
    ],
)
def test_the_line_that_is_looked_at(answer, line):
    assert first_line(answer) == line


@pytest.mark.parametrize("piece", LONG_PIECES)
def test_100_kb_of_anything_are_graded_within_a_second(piece):
    answer = "Answer: " + piece * (100_000 // len(piece))
    began = time.process_time()

    for grade in (graders.grade_exact, graders.grade_contains, graders.grade_short):
        assert not grade(a_row("Ida Holm Ek", "a b c"), answer).correct
    assert time.process_time() - began < 1  # quadratic time would be minutes
