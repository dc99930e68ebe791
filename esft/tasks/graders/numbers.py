"""Which number a text is, or ends with."""

import re
from collections import deque
from fractions import Fraction

from esft.tasks.task import Grade, Row

LONGEST = 50  # characters of a number, without sign and separators, up to which it is read
LARGEST_POWER = 50  # the e of 1e50 up to which it is read, below 0 as well as above

# Possessive and atomic, so that no run of digits is tried twice: time stays linear.
_WHOLE = r"(?>[1-9][0-9]{0,2}(?:,[0-9]{3}(?![0-9]))++|[0-9]++)"
_BODY = (
    rf"(?P<body>{_WHOLE}(?:/{_WHOLE}(?!\.?[0-9])|(?:\.[0-9]++)?(?:[eE][-+−]?[0-9]++)?)"
    rf"|(?<![\w.])\.[0-9]++)"
)
_WHOLE_TEXT = re.compile(rf"(?P<before>[-+−]?(?:[$€] ?)?|[$€][-+−]){_BODY}(?: ?%)?\.?")
# A minus behind a word, a number or a bracket takes away: "2-1" is 2 and then 1.
_IN_TEXT = re.compile(rf"(?P<before>(?<![\w).%\]+−-])[-+−](?:[$€] ?)?)?{_BODY}")


def grade_number(row: Row, answer: str) -> Grade:
    """1 where the last number in `answer` equals a right answer exactly."""
    said = last_number(answer)
    rights = [parse_number(right) for right in (row.answer, *row.accepted)]
    correct = said is not None and said in rights
    return Grade(reward=float(correct), correct=correct)


def parse_number(text: str) -> Fraction | None:
    """The number that `text` is; None where it is anything else, or more than a number.

    Read are signs, "1,080", "3.50", ".5", "3/4" and "1e9", with "$" or "€" before, and "%" or a
    full stop behind, none of which changes the value. No units.
    """
    match = _WHOLE_TEXT.fullmatch(text.strip())
    return None if match is None else _value(match)


def last_number(text: str) -> Fraction | None:
    """The last number in `text`, also in "5kg"; None without one, or where it cannot be read."""
    last = deque(_IN_TEXT.finditer(text), maxlen=1)
    return _value(last[0]) if last else None


def _value(match: re.Match[str]) -> Fraction | None:
    written = match["body"].replace(",", "").replace("−", "-")
    power = written.lower().partition("e")[2]
    below = written.partition("/")[2]
    if len(written) > LONGEST or (power and abs(int(power)) > LARGEST_POWER):
        return None
    if below and not int(below):
        return None
    value = Fraction(written)
    return -value if set(match["before"] or "") & {"-", "−"} else value
