from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.tasks.graders.numbers import LONGEST, grade_number, last_number, parse_number
from esft.tasks.task import Row, ask

WRITTEN = [
    ("18", Fraction(18)),
    (" 18\n", Fraction(18)),
    ("007", Fraction(7)),
    ("3.50", Fraction(7, 2)),
    ("1,080.25", Fraction(108_025, 100)),
    ("3/4", Fraction(3, 4)),
    ("$ 18.00", Fraction(18)),
    ("$-5", Fraction(-5)),
    ("50 %.", Fraction(50)),
    ("1e9", Fraction(10**9)),
    ("1e−2", Fraction(1, 100)),
    ("1e50", Fraction(10**50)),
    ("9" * LONGEST, Fraction(10**LONGEST - 1)),
]

NO_NUMBER = ["", "eighteen", "18 or 19", "1 08", "1, 080", "1,08", "1,0800", "10800,000", "0,123"]
NO_NUMBER += ["1.2.3", "3/", "3/0", "3/4/5", "2-1", "--1", "$-$5", "1e51", "1e999999999"]
NO_NUMBER += ["inf", "1_000", "³", "9" * (LONGEST + 1), "1e" + "9" * LONGEST]

LAST = [
    ("She has 3.5.", Fraction(7, 2)),
    ("2-1", 1),
    ("50%-1", 1),
    ("2--1", 1),
    ("-$1.50", Fraction(-3, 2)),
    ("**-1**", -1),
    ("2 * −7", -7),
    ("It costs $1,080 in all.", 1080),
    ("1, 080", 80),
    ("1,0800", 800),
    ("10800,123", 123),
    ("and so on...5", 5),
    ("1.2.3", 3),
    ("3/4 of it", Fraction(3, 4)),
    ("3/4.5", Fraction(9, 2)),
    ("12/25/2020", 2020),
    ("H2O", 2),
    ("2e", 2),
]

NO_LAST = ["", "eighteen", "...", "-$,%", "3 or 1/0", "1 and 1e999"]
NO_LAST += [f"18 and {'9' * (LONGEST + 1)}"]

PIECES = ["9", ",", "1,", "111,", ".", "-", "1/", "1.", "1e", "e9", "$", "- ", "1,1", "+1", "%"]


@pytest.mark.parametrize(("text", "number"), [*WRITTEN, *((text, None) for text in NO_NUMBER)])
def test_a_text_is_a_number_or_none(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize(("text", "number"), [*LAST, *((text, None) for text in NO_LAST)])
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == number


@given(
    number=st.integers(-(10**LONGEST) + 1, 10**LONGEST - 1),
    decimal=st.decimals(-(10**20), 10**20, places=4),
    over=st.integers(-(10**12), 10**12),
    under=st.integers(1, 10**12),
)
def test_numbers_come_back_from_every_way_of_writing_them(number, decimal, over, under):
    for text in (f"{number}", f"{number:,}", f" {number:+,}", f"${number:,}", f"{number:,}%."):
        assert parse_number(text) == last_number(text) == number
    for text in (f"{decimal:f}", f"{decimal:,f}"):
        assert parse_number(text) == last_number(text) == Fraction(decimal)
    for text in (f"{over}/{under}", f"{over:,}/{under:,}"):
        assert parse_number(text) == last_number(text) == Fraction(over, under)


@pytest.mark.parametrize(
    ("right", "answer", "correct"),
    [
        ("1,080", "So 3 * 360 = 1080.", True),
        ("0.5", "1/2", True),
        ("18", "$18", True),
        ("18", "18 and then 19", False),
        ("0.1", "0.10000000000000001", False),
        ("18", "none", False),
        ("7.5", "1e999999999", False),
    ],
)
def test_an_answer_is_right_whose_last_number_is_a_right_one_exactly(right, answer, correct):
    row = Row(id="r", questions=(ask("Q?"),), answer="-5", accepted=(right,))

    grade = grade_number(row, answer)

    assert (grade.reward, grade.correct) == (float(correct), correct)


@given(text=st.text() | st.text("0123456789,.-+/eE$€%− "))
def test_any_text_is_a_number_or_none(text):
    number = parse_number(text)

    assert number is None or last_number(text) == number
    assert any(char.isnumeric() for char in text) or last_number(text) is None


@pytest.mark.parametrize("piece", PIECES)
def test_100_kb_of_anything_come_to_an_end(piece):
    for end in ("", "1111", "x"):
        text = piece * (100_000 // len(piece)) + end

        parse_number(text)
        last_number(text)
