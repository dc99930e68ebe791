import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.tasks.graders.numbers import LONGEST, last_number, parse_number

WRITTEN = [
    ("0", Fraction(0)),
    ("18", Fraction(18)),
    (" 18\n", Fraction(18)),
    ("18.", Fraction(18)),
    ("-3", Fraction(-3)),
    ("−3", Fraction(-3)),
    ("+3", Fraction(3)),
    ("007", Fraction(7)),
    ("3.50", Fraction(7, 2)),
    ("0.1", Fraction(1, 10)),
    (".5", Fraction(1, 2)),
    ("1,080", Fraction(1080)),
    ("-109,200,000", Fraction(-109_200_000)),
    ("1,080.25", Fraction(108_025, 100)),
    ("3/4", Fraction(3, 4)),
    ("-3/4", Fraction(-3, 4)),
    ("0/5", Fraction(0)),
    ("2,000/1,000", Fraction(2)),
    ("$18", Fraction(18)),
    ("$ 18.00", Fraction(18)),
    ("-$1,080", Fraction(-1080)),
    ("$-5", Fraction(-5)),
    ("€3", Fraction(3)),
    ("50%", Fraction(50)),
    ("50 %.", Fraction(50)),
    ("1e9", Fraction(10**9)),
    ("2.5E-3", Fraction(1, 400)),
    ("1e−2", Fraction(1, 100)),
    ("1e50", Fraction(10**50)),
    ("9" * LONGEST, Fraction(10**LONGEST - 1)),
]

NO_NUMBER = [
    "",
    " ",
    ".",
    "-",
    "$",
    "%",
    "eighteen",
    "18 eggs",
    "18kg",
    "x2",
    "1 080",
    "1, 080",
    "1,08",
    "1,0800",
    "10800,000",
    "0,123",
    ",080",
    "1,080,",
    "3,4",
    "1.2.3",
    "1.234,567",
    "3..",
    "3/",
    "3/0",
    "3/000",
    "3/4/5",
    "3/4.5",
    "1.5/2",
    "2-1",
    "--1",
    "- 1",
    "$$5",
    "$-$5",
    "1e",
    "1e51",
    "1e-51",
    "1e999999999",
    "nan",
    "inf",
    "0x10",
    "1_000",
    "٣",
    "³",
    "½",
    "9" * (LONGEST + 1),
    "9" * 100_000,
    "1e" + "9" * LONGEST,
]

LAST = [
    ("2 + 2 = 4", 4),
    ("She has 3.5.", Fraction(7, 2)),
    ("She has 3.", 3),
    ("2-1", 1),
    ("2 - 1", 1),
    ("(2)-1", 1),
    ("50%-1", 1),
    ("x-1", 1),
    ("2--1", 1),
    ("= -1", -1),
    ("=-1", -1),
    ("(-1)", -1),
    ("$-1$", -1),
    ("-$1.50", Fraction(-3, 2)),
    ("**-1**", -1),
    ("2 * −7", -7),
    ("It costs $1,080 in all.", 1080),
    ("1, 080", 80),
    ("3,4", 4),
    ("1,0800", 800),
    ("10800,123", 123),
    ("12,345,67", 67),
    ("in 2019, 1,080,", 1080),
    ("half, or .5", Fraction(1, 2)),
    ("and so on...5", 5),
    ("1.2.3", 3),
    ("3/4 of it", Fraction(3, 4)),
    ("3/4.", Fraction(3, 4)),
    ("3/4.5", Fraction(9, 2)),
    ("3/1,000.5", Fraction(2001, 2)),
    ("12/25/2020", 2020),
    ("48 / 2", 2),
    ("5kg", 5),
    ("5x2", 2),
    ("H2O", 2),
    ("about 1e9", 10**9),
    ("2e", 2),
    ("18 dollars, not nineteen", 18),
]

PIECES = [
    "9",
    ",",
    "1,",
    "111,",
    ".",
    "-",
    "1/",
    "1.",
    "1e",
    "e9",
    "$",
    "- ",
    "1,1",
    "/",
    "+1",
    "%",
]


@pytest.mark.parametrize(("text", "number"), WRITTEN)
def test_a_text_that_is_a_number(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize("text", NO_NUMBER)
def test_a_text_that_is_no_number(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(("text", "number"), LAST)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize("text", ["", "eighteen", "...", "-$,%", "3 or 1/0", "1 and 1e999", "٣"])
def test_a_text_without_a_last_number_that_can_be_read(text):
    assert last_number(text) is None


def test_a_last_number_of_too_many_digits_is_none_and_not_the_one_before():
    assert last_number(f"18 and {'9' * LONGEST}") == 10**LONGEST - 1
    assert last_number(f"18 and {'9' * (LONGEST + 1)}") is None


@given(number=st.integers(-(10**LONGEST) + 1, 10**LONGEST - 1))
def test_whole_numbers_come_back_from_every_way_of_writing_them(number):
    for text in (f"{number}", f"{number:,}", f" {number:+,}", f"${number:,}", f"{number:,}%."):
        assert parse_number(text) == last_number(text) == number


@given(number=st.decimals(-(10**20), 10**20, places=4))
def test_decimals_come_back_from_every_way_of_writing_them(number):
    for text in (f"{number:f}", f"{number:,f}"):
        assert parse_number(text) == last_number(text) == Fraction(number)


@given(over=st.integers(-(10**12), 10**12), under=st.integers(1, 10**12))
def test_fractions_come_back_from_every_way_of_writing_them(over, under):
    for text in (f"{over}/{under}", f"{over:,}/{under:,}"):
        assert parse_number(text) == last_number(text) == Fraction(over, under)


@given(text=st.text() | st.text("0123456789,.-+/eE$€%− "))
def test_any_text_is_a_number_or_none(text):
    number = parse_number(text)

    assert number is None or last_number(text) == number
    assert re.search("[0-9]", text) or last_number(text) is None


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("end", ["", "1", "1111", ".5", "x"])
def test_100_kb_of_anything_come_to_an_end(piece, end):
    text = piece * (100_000 // len(piece)) + end

    parse_number(text)
    last_number(text)
