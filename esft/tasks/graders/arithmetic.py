"""The value of an arithmetic expression that uses given numbers, each exactly once."""

import operator
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

_TOKEN = re.compile(r"[0-9]+|\S")
_PLAIN_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-"})
_NEGATE = "negate"
_BINDING = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, _NEGATE: 3}
_RULES = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation on two values."""

    left: Fraction
    sign: str
    right: Fraction
    value: Fraction


def evaluate(expression: str, numbers: Sequence[int]) -> Fraction | None:
    """The exact value of `expression`; None where it is no expression of all the `numbers`.

    An expression has + - * / (also × · ⋅ ÷ −), parentheses, and each of the numbers as often as
    it is listed, in plain decimal digits. A sign before a number or a parenthesis, as in
    "-(3 - 8)", is allowed: it gives no positive target that cannot be had without it, since a
    minus moves outwards until it turns a difference round. Everything else (powers, "//",
    decimals, names, "=", two numbers side by side, leading zeros) and division by zero are None.

    Args:
        expression: any text; time is linear in its length, and no number in it is converted that
            is not one of `numbers`.
        numbers: what must be used, each >= 0.
    """
    calculator = _calculated(expression, numbers)
    return None if calculator is None else calculator.values[0]


def steps(expression: str, numbers: Sequence[int]) -> list[Step]:
    """The operations of `expression` in the order of their evaluation; none where it is wrong."""
    calculator = _calculated(expression, numbers)
    return [] if calculator is None else calculator.steps


class _NoValue(Exception):
    """The expression has no value."""


class _Calculator:
    """Evaluates tokens from left to right on two stacks; no recursion, however deep they nest."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.unused = Counter(map(str, numbers))
        self.values: list[Fraction] = []
        self.signs: list[str] = []  # not applied yet, and parentheses not closed yet
        self.steps: list[Step] = []

    def begin_operand(self, token: str) -> bool:
        """Take a token where an operand begins; whether the operand is still to come."""
        if token == "+":
            return True
        if token in ("(", "-"):
            self.signs.append("(" if token == "(" else _NEGATE)
            return True
        if not self.unused[token]:
            raise _NoValue
        self.unused[token] -= 1
        self.values.append(Fraction(int(token)))
        return False

    def follow_operand(self, token: str) -> bool:
        """Take a token behind an operand; whether an operand must follow."""
        if token == ")":
            self.apply_down_to(1)
            if not self.signs:
                raise _NoValue
            self.signs.pop()
            return False
        if token not in _RULES:
            raise _NoValue
        self.apply_down_to(_BINDING[token])
        self.signs.append(token)
        return True

    def apply_down_to(self, binding: int) -> None:
        """Apply the last signs that bind as strongly as `binding` or more."""
        while self.signs and _BINDING[self.signs[-1]] >= binding:
            sign = self.signs.pop()
            right = self.values.pop()
            if sign == _NEGATE:
                self.values.append(-right)
                continue
            if sign == "/" and right == 0:
                raise _NoValue
            left = self.values.pop()
            value = _RULES[sign](left, right)
            self.values.append(value)
            self.steps.append(Step(left=left, sign=sign, right=right, value=value))


def _calculated(expression: str, numbers: Sequence[int]) -> _Calculator | None:
    """A calculator with one value left, or None where the expression has none."""
    calculator = _Calculator(numbers)
    operand_next = True
    try:
        for token in _TOKEN.finditer(expression.translate(_PLAIN_SIGNS)):
            take = calculator.begin_operand if operand_next else calculator.follow_operand
            operand_next = take(token.group())
        if operand_next or calculator.unused.total():
            return None
        calculator.apply_down_to(1)
    except _NoValue:
        return None
    return None if calculator.signs else calculator
