"""Whether two mathematical answers are the same, as math-verify sees it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from esft.tasks.graders.process import GraderProcess
from esft.tasks.task import Grade, Row

LONGEST = 2_000  # characters at the end of an answer that are looked at
LONGEST_BARE = 200  # characters of an answer that may be one formula without marks

# sympy is slow on some answers and never ends on others; it is loaded with the first answer.
_PROCESS = GraderProcess("esft.tasks.graders.math_answers:start")


def grade_math(row: Row, answer: str) -> Grade:
    """1 where what counts in `answer` equals a right answer as mathematics."""
    if not answer.strip():
        return Grade(reward=0.0, correct=False)
    return _PROCESS.grade({"answers": [row.answer, *row.accepted]}, what_counts(answer))


def what_counts(answer: str) -> str:
    """What the last \\boxed{} that is closed holds, else the answer; of its last characters."""
    tail = answer[-LONGEST:]
    ends: list[int] = []
    for at in range(len(tail) - 1, -1, -1):
        before = tail[max(0, at - 8) : at]
        if (len(before) - len(before.rstrip("\\"))) % 2:  # an escaped brace holds nothing
            continue
        if tail[at] == "}":
            ends.append(at)
        elif tail[at] == "{" and ends:
            end = ends.pop()
            if tail[:at].rstrip(" ").endswith("\\boxed"):
                return _boxed(tail[at + 1 : end])
    return tail


def start() -> Callable[[Mapping[str, Any], str], float]:
    """What the grading process calls; math-verify is loaded, with its first slow calls done."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    _reward({"answers": ["\\frac{1}{2}"]}, "\\boxed{0.5}")
    _reward({"answers": ["x+1", "(1,2]"]}, "\\boxed{1+x}")
    return _reward


def _reward(row: Mapping[str, Any], answer: str) -> float:
    """1 where `answer` is one of the row's, which are LaTeX without dollars; else 0.

    It may raise, and take for ever: math-verify's own time limits are off.
    """
    from math_verify import parse, verify

    plain = answer.strip()
    forms = [answer]
    # math-verify finds no formula in a text without dollars, such as "x^2 + 1".
    marked = any(mark in plain.replace("\\$", "") for mark in ("\n", "$", "\\boxed"))
    if len(plain) <= LONGEST_BARE and not marked:
        forms.append(_boxed(plain))
    rights = [parse(_boxed(right), parsing_timeout=None) for right in row["answers"]]
    for form in forms:
        said = parse(form, parsing_timeout=None)
        if any(verify(right, said, timeout_seconds=None) for right in rights):
            return 1.0
    return 0.0


def _boxed(formula: str) -> str:
    return f"\\boxed{{{formula}}}"
