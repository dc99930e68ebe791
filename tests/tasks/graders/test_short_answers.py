import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.tasks.graders.short_answers import LONGEST, first_line, grade_short, normalised, token_f1
from esft.tasks.task import Row

NORMALISED = [
    ("Paris", "paris"),
    ("  New   Delhi\t", "new delhi"),
    ("The Beatles", "beatles"),
    ("A Tale of the Two Cities", "tale of two cities"),
    ("Theatre", "theatre"),
    ("Seine-Maritime", "seine maritime"),
    ("Dieppe (France)", "dieppe france"),
    ("U.S.A.", "usa"),
    ("J. R. R. Tolkien", "j r r tolkien"),
    ("He Ain't Heavy", "he aint heavy"),
    ("It’s", "its"),
    ("14 December, 1972", "14 december 1972"),
    ("1,080", "1080"),
    ("3.5", "3.5"),
    ("3.5.", "3.5"),
    ("$5", "5"),
    ("under_score", "under score"),
    ("“quoted”", "quoted"),
    ("If…", "if"),
    ("Åsa", "åsa"),
    ("A\u030asa", "åsa"),
    ("STRASSE", "strasse"),
    ("Straße", "strasse"),
    ("हिन्दी", "हिन्दी"),
    ("日本", "日本"),
    ("Ｋ２", "k2"),
    ("🐕", "🐕"),
    ("A", "a"),
    ("(A)", "a"),
    ("The The", "the the"),
    ("?!", "?!"),
    ("...", "..."),
    ("", ""),
    (" \n", ""),
]

F1 = [
    ("paris", "paris", 1.0),
    ("paris", "london", 0.0),
    ("", "paris", 0.0),
    ("paris", "", 0.0),
    ("city of paris", "paris", 0.5),
    ("paris", "city of paris", 0.5),
    ("paris paris paris", "paris", 0.5),
    ("paris city", "city paris", 1.0),
    ("a b c d", "c d e f", 0.5),
]

RIGHT = [
    "Ida Holm",
    "ida holm.",
    "  The Ida-Holm!\n",
    "IDA HOLM\nwas a painter.",
    "Answer: Ida Holm",
    "answer:Ida Holm",
    "**Answer:** Ida Holm",
    "Answer:\n\nIda Holm",
    "The answer is Ida Holm.",
    "The final answer is: Ida Holm",
    "Answer is Ida Holm",
    "**Ida Holm**",
    "A: Ida Holm",
    "\n\nI. Holm",
    "Åsa",
]
WRONG = [
    ("Ida", 2 / 3),
    ("Holm Ida", 1.0),
    ("It was Ida Holm", 2 / 3),
    ("Bo Holm\nIda Holm", 0.5),
    ("Bo Ek", 0.0),
    ("Asa", 0.0),
    ("", 0.0),
    ("\n \n", 0.0),
    ("Answer:", 0.0),
    ("?", 0.0),
    ("the", 0.0),
    ("\0", 0.0),
    ("\ud800", 0.0),
]
PIECES = [
    "Ida ",
    "Ida",
    "\u0301\u0323",
    "ﷺ",
    " ",
    "\n",
    "*",
    "the ",
    "answer ",
    "Answer:",
    "1,",
    ".",
]


def a_row(answer="Ida Holm", accepted=("I. Holm", "Åsa")):
    return Row(id="r", questions=(), answer=answer, accepted=accepted)


@pytest.mark.parametrize(("text", "plain"), NORMALISED)
def test_texts_are_compared_without_case_punctuation_and_articles(text, plain):
    assert normalised(text) == plain


@given(text=st.text())
def test_a_text_with_anything_in_it_has_something_to_compare(text):
    plain = normalised(text)

    assert bool(plain) is bool(text.split())
    assert plain == " ".join(plain.split())


@pytest.mark.parametrize(("said", "right", "f1"), F1)
def test_token_f1_counts_each_shared_word_once(said, right, f1):
    assert token_f1(said, right) == pytest.approx(f1, abs=1e-12)


@given(one=st.text("ab "), other=st.text("ab "))
def test_token_f1_is_the_same_both_ways_and_1_for_the_same_words(one, other):
    f1 = token_f1(one, other)

    assert f1 == token_f1(other, one)
    assert (f1 == 1) is (bool(one.split()) and sorted(one.split()) == sorted(other.split()))


@pytest.mark.parametrize("answer", RIGHT)
def test_an_answer_that_is_one_of_those_accepted(answer):
    score = grade_short(a_row(), answer)

    assert (score.reward, score.correct) == (1.0, True)


@pytest.mark.parametrize(("answer", "reward"), WRONG)
def test_any_other_answer_is_worth_the_words_it_shares_with_the_nearest(answer, reward):
    score = grade_short(a_row(), answer)

    assert score.reward == pytest.approx(reward, abs=1e-12)
    assert not score.correct


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("one\ntwo", "one"),
        ("\n \n one", "one"),
        ("Answer: one", "one"),
        ("Answer me", "Answer me"),
        ("Answers: one", "Answers: one"),
        ("My answer is one", "My answer is one"),
        ("The answer isn't one", "The answer isn't one"),
        ("Answer: Answer: one", "Answer: one"),
        ("", ""),
    ],
)
def test_the_line_that_is_looked_at(answer, line):
    assert first_line(answer) == line


@given(answer=st.text(), right=st.text().filter(str.split))
def test_any_answer_to_any_row_gets_a_reward_from_0_to_1(answer, right):
    score = grade_short(a_row(right, accepted=()), answer)

    assert 0 <= score.reward <= 1
    assert score.reward == 1 or not score.correct


def test_characters_far_behind_are_not_looked_at():
    # Marks over one letter take quadratic time to normalise: 20 s for 100 kB of them.
    assert first_line("x" * LONGEST + "\u0301\u0323") == "x" * LONGEST
    assert grade_short(a_row(), "Ida Holm" + " " * LONGEST + "Bo Ek").correct


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("start", ["", "Answer: ", "the "])
def test_100_kb_of_anything_are_graded(piece, start):
    score = grade_short(a_row(), start + piece * (100_000 // len(piece)))

    assert 0 <= score.reward <= 1
