"""Which number a text is, or ends with."""

import re
import unicodedata
from collections import deque
from fractions import Fraction

from esft.tasks.task import Grade, Row

LONGEST = 50  # characters of a number, without sign and separators, up to which it is read
LARGEST_POWER = 50  # the e of 1e50 up to which it is read, below 0 as well as above

# Possessive and atomic, so that no run of digits is tried twice: time stays linear.
_WHOLE = r"(?>[1-9][0-9]{0,2}(?:,[0-9]{3}(?![0-9]))++|[0-9]++)"
_BODY = (
    rf"(?:(?<!/)(?<!/ )(?:(?P<mixed>[0-9]{{1,9}}) (?=[0-9]{{1,9}} ?/))?(?P<above>{_WHOLE}) ?/ ?"
    rf"(?P<below>{_WHOLE})(?!\.?[0-9]| ?/ ?[0-9])"
    rf"|(?P<decimal>{_WHOLE}(?:\.[0-9]++)?+(?:[eE](?P<power>[-+]?[0-9]++))?|(?<![\w.])\.[0-9]++))"
    r"(?P<percent> ?%)?"
)
_UNIT = r"(?: ?[^\W\d_][^\W\d_.-]{0,19}){1,3}\.?"
_WHOLE_TEXT = re.compile(rf"(?P<before>[-+]? ?(?:[$€] ?)?|[$€][-+]){_BODY}(?:\.|{_UNIT})?")
# A minus behind a word, a number or a bracket takes away: "2-1" is 2 and then 1.
_IN_TEXT = re.compile(
    rf"(?P<before>(?<![\w).%\]+-])(?:[-+]|(?<![\w).%\]] )[-+] )(?:[$€] ?)?)?{_BODY}"
)

_SUPERSCRIPT = re.compile("(?<=[0-9])[⁻⁺]?[⁰¹²³⁴-⁹]{1,9}")
_TEN = r"10 ?(?:\^|\*\*) ?\{?([-+]?[0-9]{1,9})(?![0-9])\}?"
_PLAIN_FORMS = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"[ \t\u00a0\u2009\u202f]+", " "),
        (r"\\[,;:! ]|\{,\}|\\(?=[%$])", ""),  # LaTeX: thin spaces, a comma that is none of a list
        (r"(?<=[0-9]) ?(?=\\[dtc]?frac)", " "),  # 1\frac{1}{2} is mixed
        (r"\\[dtc]?frac ?(?:\{ ?([0-9]{1,50}) ?\}|([0-9])) ?(?:\{ ?([0-9]{1,50}) ?\}|([0-9]))",
         r"\1\2/\3\4"),
        (rf"(?<=[0-9]) ?(?:\\times|\\cdot|[*x×·⋅]) ?{_TEN}", r"e\1"),
        (rf"(?<![\w.^]){_TEN}", r"1e\1"),
    )
)  # fmt: skip
_THOUSANDS = re.compile(r"(?<![\d.,^])[1-9][0-9]{0,2}(?:[ '’][0-9]{3})++(?![0-9])")


def grade_number(row: Row, answer: str) -> Grade:
    """1 where the last number in `answer` equals a right answer exactly; 50% is 50, and 1/2."""
    said = _meant(_last(answer))
    correct = any(said & _meant(_whole(right)) for right in (row.answer, *row.accepted))
    return Grade(reward=float(correct), correct=correct)


def parse_number(text: str) -> Fraction | None:
    """The number that `text` is; None where it is anything else, or more than a number.

    Read are a sign, separators of thousands ("1,080", "1 080", "1'080"), decimals ("3.50", ".5"),
    fractions of whole numbers ("3/4", "\\frac{3}{4}", "1 1/2") and powers of ten ("1e9", "10^9"),
    in the digits of any script, with "$" or "€" before, and "%", a full stop or a unit of up to
    three words behind, none of which changes the value.
    """
    return _value(_whole(text))


def last_number(text: str) -> Fraction | None:
    """The last number in `text`, also in "x2" and "5kg"; None where there is none.

    None too where the last one is too long to be read or has a 0 below its line.
    """
    return _value(_last(text))


def _whole(text: str) -> re.Match[str] | None:
    return _WHOLE_TEXT.fullmatch(_plain(text).strip(" \r\n*_`"))


def _last(text: str) -> re.Match[str] | None:
    last = deque(_IN_TEXT.finditer(_plain(text)), maxlen=1)
    return last[0] if last else None


def _plain(text: str) -> str:
    """`text` with its numbers in ASCII and without what only sets them."""
    text = _SUPERSCRIPT.sub(lambda power: "^" + unicodedata.normalize("NFKC", power[0]), text)
    text = "".join(char if char.isascii() else _ascii(char) for char in text)
    for pattern, plain in _PLAIN_FORMS:
        text = pattern.sub(plain, text)
    return _THOUSANDS.sub(lambda match: re.sub("[ '’]", "", match[0]), text)


def _ascii(char: str) -> str:
    """A character as numbers have it: not NFKC for the whole text, which makes 10⁹ to 109."""
    if char in "−–﹣－":
        return "-"
    plain = unicodedata.normalize("NFKC", char)
    if "⁄" in plain:  # ½
        return f" {plain.replace('⁄', '/')}"
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    return {"٫": ".", "٬": ","}.get(char, plain if plain in tuple(".,/%$") else char)


def _meant(number: re.Match[str] | None) -> set[Fraction]:
    value = _value(number)
    if value is None:
        return set()
    return {value, value / 100} if number["percent"] else {value}


def _value(number: re.Match[str] | None) -> Fraction | None:
    if number is None:
        return None
    above, below, decimal = (
        (number[part] or "").replace(",", "") for part in ("above", "below", "decimal")
    )
    if max(len(above) + len(below) + 1, len(decimal)) > LONGEST:
        return None
    if abs(int(number["power"] or 0)) > LARGEST_POWER or (below and not int(below)):
        return None
    value = (
        Fraction(decimal) if decimal else int(number["mixed"] or 0) + Fraction(f"{above}/{below}")
    )
    return -value if "-" in (number["before"] or "") else value
