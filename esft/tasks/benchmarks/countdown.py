"""Countdown: reach a target with + - * /, using every given number exactly once."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from esft.tasks.benchmarks.countdown_puzzles import SIZES, puzzles
from esft.tasks.columns import any_column, is_text, wrong_column
from esft.tasks.generated import GeneratedRows
from esft.tasks.graders.arithmetic import Step, evaluate
from esft.tasks.own_rows import row_id
from esft.tasks.task import Grade, Row, Task, ask, hub_task, one_answer

OPENING = "<think>"
FORMAT_SHARE = 0.1  # what the exact form of an answer adds to the reward

_LARGEST_NUMBER = 999_999
_TARGET = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,30})?")
_TOLERANCE = Fraction(1, 10**9)  # files hold targets as printed floats, such as 14.318840579710146
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def read_countdown(raw: Mapping[str, Any]) -> Row:
    """A puzzle: its numbers (column numbers or nums), target and, where known, a solution.

    Numbers are 2 to 6 from 0 to 999,999; the target is a number or a text with one, also negative
    or with decimals. A solution that the grader refuses counts as none: published rows have some
    that do not use each number once.
    """
    numbers, target = _numbers(raw), _target(raw)
    message = (
        f"Numbers: {', '.join(map(str, numbers))}\nTarget: {target}\n\n"
        "Find an expression over these numbers whose value is the target. Every number has to be "
        "used exactly once; besides the numbers there may be +, -, *, / and parentheses.\n"
        "First try things out between <think> and </think>. Then write the expression alone "
        "between <answer> and </answer>, as in <answer>(8 + 7) / 5 - 2</answer>."
    )
    solution = _solution(raw, numbers, Fraction(target))
    reference = None if solution is None else _written_out(solution, numbers)
    return Row(
        id=row_id(raw, "countdown", message),
        questions=(ask(message, reference=reference, opening=OPENING),),
        answer=solution,
        facts={"numbers": numbers, "target": Fraction(target)},
    )


def grade_countdown(row: Row, answer: str) -> Grade:
    """Correct + 0.1 * format, where the last <answer>...</answer> is what is correct or not.

    Source: the Countdown task of arXiv:2509.24372.
    """
    expression = _within(answer, "answer")
    numbers, target = row.facts["numbers"], row.facts["target"]
    correct = expression is not None and _reaches(expression, numbers, target)
    return Grade(reward=float(correct) + FORMAT_SHARE * format_of(answer), correct=correct)


def format_of(answer: str) -> float:
    """How well an answer keeps to the form that was asked for, whatever it says.

    1 for <think>...</think>, optional space, <answer>...</answer>, each tag once and nothing
    around them; else 0.5 for a pair of answer tags and 0.1 for a pair of think tags.
    """
    text = answer.strip()
    thought, _, rest = text.partition("</think>")
    if (
        all(text.count(tag) == 1 for tag in _TAGS)
        and thought.startswith("<think>")
        and rest.lstrip().startswith("<answer>")
        and rest.endswith("</answer>")
    ):
        return 1.0
    answered, thinking = (_within(answer, tag) is not None for tag in ("answer", "think"))
    return 0.5 * answered + 0.1 * thinking


def _within(text: str, tag: str) -> str | None:
    """What the last pair of these tags holds; None where there is no pair."""
    opened, closed = f"<{tag}>", f"</{tag}>"
    last = text.rfind(closed)
    start = text.rfind(opened, 0, max(last, 0))
    if start < 0:
        return None
    start += len(opened)
    return text[start : text.find(closed, start)]


def _reaches(expression: str, numbers: tuple[int, ...], target: Fraction) -> bool:
    value = evaluate(expression, numbers)
    if value is None:
        return False
    if target.denominator == 1:
        return value == target
    return abs(value - target) <= _TOLERANCE * abs(target)


def _numbers(raw: Mapping[str, Any]) -> tuple[int, ...]:
    name = "nums" if "nums" in raw and "numbers" not in raw else "numbers"
    value = any_column(raw, name)
    if (
        not isinstance(value, list)
        or not 2 <= len(value) <= 6
        or not all(type(number) is int and 0 <= number <= _LARGEST_NUMBER for number in value)
    ):
        raise wrong_column(name, value, f"2 to 6 whole numbers from 0 to {_LARGEST_NUMBER:,}")
    return tuple(value)


def _target(raw: Mapping[str, Any]) -> str:
    """The target in plain decimal notation."""
    value = any_column(raw, "target")
    text = str(value) if isinstance(value, (int, float)) else value
    if not isinstance(text, str) or not _TARGET.fullmatch(text.strip()):
        raise wrong_column("target", value, 'a number, or a text with one such as "85" or "27.4"')
    return text.strip()


def _solution(raw: Mapping[str, Any], numbers: tuple[int, ...], target: Fraction) -> str | None:
    """The solution without parentheses around it all; None without one that the grader accepts."""
    value = raw.get("solution")
    if value is None:
        return None
    if not is_text(value):
        raise wrong_column("solution", value, "an expression, or null")
    if not _reaches(value, numbers, target):
        return None
    expression = value.strip()
    while expression.startswith("(") and expression.endswith(")"):
        within = expression[1:-1].strip()
        if evaluate(within, numbers) is None:  # "(1 + 2) * (3 + 4)": not one pair around it all
            break
        expression = within
    return expression


def _written_out(solution: str, numbers: tuple[int, ...]) -> str:
    """An answer that works the solution out, step by step."""
    steps: list[Step] = []
    evaluate(solution, numbers, steps)
    worked = "; ".join(
        f"{_part(step.left, step.left.denominator > 1)} {step.sign} "
        f"{_part(step.right, step.right.denominator > 1 or step.right < 0)} = {step.value}"
        for step in steps
    )
    return f"{OPENING}{worked}</think>\n<answer>{solution}</answer>"


def _part(value: Fraction, parted: bool) -> str:
    return f"({value})" if parted else str(value)


_FIELDS: dict[str, Any] = {
    "grading": "1 where the last <answer>...</answer> reaches the target with every number used "
    "exactly once; plus 0.1 for the form <think>...</think> <answer>...</answer>, 0.05 for "
    "answer tags alone, 0.01 for think tags alone",
    "scorings": ("generate",),
    "max_new_tokens": 1024,
    "max_reward": 1 + FORMAT_SHARE,
    "read": read_countdown,
    "grade": one_answer(grade_countdown),
}

COUNTDOWN = Task(
    name="countdown",
    summary="reach a target with + - * / and every given number once; generated puzzles",
    source="puzzles that esft generates from a fixed seed",
    licence="Apache-2.0",
    size=", ".join(f"{size:,} {split}" for split, size in SIZES.items()),
    file="countdown",
    make_source=lambda: GeneratedRows(name="generated countdown puzzles", make=puzzles),
    **_FIELDS,
)
COUNTDOWN_3TO4 = hub_task(
    "countdown-3to4",
    "Jiayi-Pan/Countdown-Tasks-3to4",
    summary="reach a target with + - * / and 3 or 4 given numbers; puzzles from the hub",
    licence="see the dataset's card",
    size="train only",
    file="countdown_tasks_3to4",
    **_FIELDS,
)
