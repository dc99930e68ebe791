"""Whether two mathematical answers are the same, as math-verify sees it."""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from esft.tasks.graders.process import GraderProcess
from esft.tasks.task import Grade, Row

LONGEST = 2_000  # characters at the end of an answer that are looked at

_MARKED = re.compile(r"^[ \t]*####[ \t]*(\S.*)$", re.MULTILINE)
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:(?:the )?"
    r"(?:(?:final |correct )?answer|result|value)(?: is\b:?|:)|(?:it|this) is\b)[\s*_]*",
    re.IGNORECASE,
)
_COMMAND = re.compile(r"\\(?:begin|end)\{\w+\*?\}|\\[A-Za-z]+")
_FUNCTIONS = frozenset({"sin", "cos", "tan", "cot", "log", "ln", "exp", "sqrt", "pi", "max", "min"})

# sympy is slow on some answers and never ends on others; it is loaded with the first answer.
_PROCESS = GraderProcess("esft.tasks.graders.math_answers:start")


def grade_math(row: Row, answer: str) -> Grade:
    """1 where what `stated_formula` finds in `answer` equals a right answer as mathematics."""
    rights = [row.answer, *row.accepted]
    formula = stated_formula(answer, " ".join(rights))
    if not formula:
        return Grade(reward=0.0, correct=False)
    return _PROCESS.grade({"answers": rights}, formula)


def stated_formula(answer: str, words: str = "") -> str | None:
    """The formula that an answer states as its result; None where it states none.

    The first of these that is there, among the last characters: what the last closed \\boxed{}
    holds, what stands behind the last ####, the last line where it is a formula alone. A line
    alone has no words but those of `words`, so that a number within a sentence is not taken for
    an answer; the other two name one thing, not "this or that".
    """
    tail = answer[-LONGEST:]
    formula, marked = _last_box(tail), _MARKED.findall(tail)
    refused = {"or", "and"}
    if formula is None and marked:
        formula = marked[-1]
    elif formula is None:
        formula = next((line for line in reversed(tail.split("\n")) if line.strip(" \t\r*$")), "")
        refused = None
    formula = _LEAD.sub("", formula.strip(" \t\r*_"))
    formula = re.sub(r"\\[()\[\]]|(?<!\\)\$", "", formula).strip(" \t\r*_").rstrip(".")
    said = _words(_COMMAND.sub(" ", formula)) - _words(words)
    return formula if formula and not (said & refused if refused else said - _FUNCTIONS) else None


def _words(text: str) -> set[str]:
    return {word.casefold() for word in re.findall(r"[^\W\d_]{2,}", text)}


def _last_box(tail: str) -> str | None:
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
                return tail[at + 1 : end]
    return None


def start() -> Callable[[Mapping[str, Any], str], float]:
    """What the grading process calls; math-verify is loaded, with its first slow calls done."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    _reward({"answers": ["\\frac{1}{2}"]}, "0.5")
    _reward({"answers": ["x+1", "(1,2]"]}, "1+x")
    return _reward


def _reward(row: Mapping[str, Any], formula: str) -> float:
    """1 where `formula` is one of the row's answers; all are LaTeX without dollars.

    It may raise, and take for ever: math-verify's own time limits are off.
    """
    from math_verify import parse, verify

    said = parse(f"\\boxed{{{formula}}}", parsing_timeout=None)
    rights = (parse(f"\\boxed{{{right}}}", parsing_timeout=None) for right in row["answers"])
    return float(any(verify(right, said, timeout_seconds=None) for right in rights))
