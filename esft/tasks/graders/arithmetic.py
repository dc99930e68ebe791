"""The value of an arithmetic expression that uses given numbers, each exactly once."""

import ast
import operator
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 1_000  # characters of an expression, with single spaces, up to which it is read
MOST_SIGNS = 100  # signs and parentheses up to which it is read; it is nested no deeper

_PLAIN_SIGNS = str.maketrans(
    {"×": "*", "x": "*", "·": "*", "⋅": "*", "÷": "/", ":": "/", "−": "-", "–": "-", "$": " "}
)
_LATEX = (
    (re.compile(r"\\(?:left|right|[()\[\],;! ])"), ""),
    (re.compile(r"\\(?:times|cdot)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"\\[dt]?frac *\{([0-9]+)\} *\{([0-9]+)\}"), r"(\1/\2)"),
    (re.compile(r"\A\s*\\boxed *\{(.*)\}[\s.]*\Z", re.DOTALL), r"\1"),
)
_CHARACTERS = re.compile(r"[0-9 +\-*/()]*")
_RULES = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation on two values."""

    left: Fraction
    sign: str
    right: Fraction
    value: Fraction


def evaluate(
    expression: str, numbers: Sequence[int], done: list[Step] | None = None
) -> Fraction | None:
    """The exact value of `expression`; None where it is no expression of all the `numbers`.

    An expression has + - * / (also × x · ÷ : − and those of LaTeX), parentheses, and each of the
    numbers as often as it is listed, in plain decimal digits. A sign as in "-(3 - 8)" is allowed:
    it reaches no positive target that is out of reach without it. Everything else (powers, "//",
    decimals, names, "=", leading zeros) and division by zero are None. Its operations are appended
    to `done`, in the order of their evaluation.
    """
    text = plain(expression)
    # Before Python's parser sees it: its time and its stack are bounded by these limits, and it
    # reads no number that is not one of ours.
    if len(text) > LONGEST or sum(map(text.count, "+-*/()")) > MOST_SIGNS:
        return None
    used = Counter(re.findall("[0-9]+", text))
    if not _CHARACTERS.fullmatch(text) or used != Counter(map(str, numbers)):
        return None
    try:
        return _value(ast.parse(text, mode="eval").body, [] if done is None else done)
    except (SyntaxError, ZeroDivisionError):
        return None


def plain(text: str) -> str:
    """An expression or equation in the signs of Python, with single spaces and no full stop."""
    for pattern, sign in _LATEX:
        text = pattern.sub(sign, text)
    return " ".join(text.translate(_PLAIN_SIGNS).split()).rstrip(". ")


def _value(node: ast.expr, done: list[Step]) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            value = _value(operand, done)
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp(op=op) if type(op) in _RULES:
            sign, rule = _RULES[type(op)]
            left, right = _value(node.left, done), _value(node.right, done)
            done.append(Step(left=left, sign=sign, right=right, value=rule(left, right)))
            return done[-1].value
    raise SyntaxError("no arithmetic")
