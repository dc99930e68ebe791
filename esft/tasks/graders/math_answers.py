"""Whether two mathematical answers are the same, as math-verify sees it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esft.tasks.graders.process import GraderProcess
from esft.tasks.task import Grade, Row

LONGEST = 2_000
"""Characters at the end of an answer that are looked at."""
LONGEST_BARE = 200
"""Characters of an answer that may be one formula without marks."""
GRADING = (
    "1 where the last \\boxed{} of the answer, or the answer where it has none, equals the right "
    "one as mathematics (math-verify, at most 1 s)"
)
"""How the grader made by `math_grader` grades, in words."""


def math_grader() -> Callable[[Row, str], Grade]:
    """A grader of mathematical answers, in a process that starts with the first answer.

    sympy is slow on some answers and never ends on others, so it has a process of its own.
    """
    process = GraderProcess("esft.tasks.graders.math_answers:start")

    def grade_math(row: Row, answer: str) -> Grade:
        if not answer.strip():
            return Grade(reward=0.0, correct=False)
        right = [text for text in (row.answer, *row.accepted) if text is not None]
        return process.grade({"answers": right}, what_counts(answer))

    return grade_math


def what_counts(answer: str) -> str:
    """What the last \\boxed{} that is closed holds, else the answer; of its last characters.

    Time is linear in the length of the answer.
    """
    tail = answer[-LONGEST:]
    ends: list[int] = []
    for at in range(len(tail) - 1, -1, -1):
        if tail[at] == "}" and not _is_escaped(tail, at):
            ends.append(at)
        elif tail[at] == "{" and ends and not _is_escaped(tail, at):
            end = ends.pop()
            if tail[:at].rstrip(" ").endswith("\\boxed"):
                return _boxed(tail[at + 1 : end])
    return tail


def _is_escaped(text: str, at: int) -> bool:
    before = text[max(0, at - 8) : at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def start() -> Callable[[Mapping[str, Any], str], float]:
    """What the grading process calls; math-verify is loaded, with its first slow calls done."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def reward(row: Mapping[str, Any], answer: str) -> float:
        return grade(row["answers"], answer)

    grade(["\\frac{1}{2}"], "\\boxed{0.5}")
    grade(["x+1", "(1,2]"], "\\boxed{1+x}")
    return reward


def grade(answers: Sequence[str], text: str) -> float:
    """1 where `text` is one of `answers`, which are LaTeX without dollars; else 0.

    It may raise, and take for ever: math-verify's own time limits are off.
    """
    from math_verify import parse, verify

    rights = [parse(_boxed(right), parsing_timeout=None) for right in answers]
    for form in _forms(text):
        said = parse(form, parsing_timeout=None)
        if any(verify(right, said, timeout_seconds=None) for right in rights):
            return 1.0
    return 0.0


def _forms(text: str) -> list[str]:
    """The text, and the text as one formula where it may be that: math-verify finds no formulas
    in text that has no dollars, such as "x^2 + 1"."""
    plain = text.strip()
    marked = any(mark in plain.replace("\\$", "") for mark in ("\n", "$", "\\boxed"))
    bare = len(plain) <= LONGEST_BARE and not marked
    return [text, _boxed(plain)] if bare else [text]


def _boxed(formula: str) -> str:
    return f"\\boxed{{{formula}}}"
