import re
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.tasks.graders.arithmetic import evaluate

NUMBERS = [2, 3, 3, 10]
WRONG = ["", "2", "2 + 3 + 10", "2 + 2 + 3 + 10", "2 + 3 + 3 + 10 = 18", "2 3 3 10"]
WRONG += ["2(3 + 3) + 10", "2 + 3 + 310", "2 + 3 + 3 + 010", "2 + 3 + 3 + 1e1", "2 + 3 + 3 + 1_0"]
WRONG += ["2 + 3 + 3 + ١٠", "2 + 3 + 3 + ¹⁰", "2 + 3 ** 3 + 10", "10 // 3 + 3 + 2"]
WRONG += ["abs(2) + 3 + 3 + 10", "2 + 3 + 3 + 10)", "2) + (3 + 3 + 10", "() + 2 + 3 + 3 + 10"]
WRONG += ["2 + 3 + 3 + 10 +", "2 + 3 + (3 + ) 10", "10 / (3 - 3) + 2", "__import__('os')"]


def trees():
    """Random expressions as nested tuples: (number,), ("-", tree) or (tree, sign, tree)."""
    leaf = st.tuples(st.integers(0, 120))
    return st.recursive(
        leaf,
        lambda inner: (
            st.tuples(inner, st.sampled_from("+-*/"), inner) | st.tuples(st.just("-"), inner)
        ),
        max_leaves=6,
    )


def leaves(tree):
    return list(map(int, re.findall("[0-9]+", wrapped(tree))))


def value_of(tree):
    """The value of a tree by its parentheses; None where something is divided by zero."""
    try:
        return eval(re.sub("([0-9]+)", r"Fraction(\1)", wrapped(tree)))
    except ZeroDivisionError:
        return None


def wrapped(tree):
    """A tree as text with parentheses around every part."""
    if len(tree) == 1:
        return str(tree[0])
    if len(tree) == 2:
        return f"(-{wrapped(tree[1])})"
    return f"({wrapped(tree[0])} {tree[1]} {wrapped(tree[2])})"


def terse(tree, outer=0):
    """A tree as text with the fewest parentheses that keep its value."""
    if len(tree) == 1:
        return str(tree[0])
    if len(tree) == 2:
        return f"-{terse(tree[1], 3)}"
    binding = 1 if tree[1] in "+-" else 2
    text = f"{terse(tree[0], binding)}{tree[1]}{terse(tree[2], binding + 1)}"
    return f"({text})" if binding < outer else text


@given(tree=trees(), data=st.data())
def test_the_value_is_that_of_the_tree_however_it_is_written_and_the_numbers_are_listed(tree, data):
    # Zeros, which are numbers like any others, are among them.
    numbers = data.draw(st.permutations(leaves(tree)))

    assert evaluate(wrapped(tree), numbers) == value_of(tree)
    assert evaluate(terse(tree), numbers) == value_of(tree)


@given(tree=trees(), more=st.integers(0, 120))
def test_a_number_too_many_or_too_few_is_no_answer(tree, more):
    numbers = leaves(tree)

    assert evaluate(terse(tree), [*numbers, more]) is None
    assert evaluate(terse(tree), numbers[1:]) is None


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 3 - 10", 1),
        ("10 / (3 + 3) - 2", Fraction(-1, 3)),
        ("10 × 3 ÷ 3 − 2", 8),
        ("-2 + 3 + 3 * 10", 31),
        ("+2 - -3 - (-3) + 10", 18),
        ("10 * -(2 - 3) / 3", Fraction(10, 3)),
        ("2 * -3 * -3 * 10", 180),
        ("\t(\n2)+ (((3)))+3\u00a0+10 ", 18),
    ],
)
def test_right_expressions(expression, value):
    assert evaluate(expression, NUMBERS) == value


@pytest.mark.parametrize("expression", WRONG)
def test_no_expression_of_all_the_numbers(expression):
    assert evaluate(expression, NUMBERS) is None


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(" * 49 + "2 + 3" + ")" * 49, 5),
        ("-" * 98 + "2 + 3", 5),
        ("(" * 50 + "2 + 3" + ")" * 50, None),
        ("-(" * 50_000 + "2 + 3" + ")" * 50_000, None),
        ("9" * 100_000, None),
        ("2 + 3" + " " * 100_000, 5),
        ("2 + 3 " * 20_000, None),
        ("2" + "**9" * 30_000, None),
        ("9**9**9**9**9", None),
    ],
)
def test_hostile_expressions_take_no_longer_than_their_length_asks_for(expression, value):
    start = time.process_time()

    assert evaluate(expression, [2, 3]) == value
    assert time.process_time() - start < 1  # quadratic time would be minutes
