"""Countdown: reach a target with + - * / from given numbers; generated puzzles, and a hub's."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

from esft.tasks.columns import any_column, is_text, wrong_column
from esft.tasks.graders.arithmetic import LONGEST, Step, evaluate, plain
from esft.tasks.graders.numbers import parse_number
from esft.tasks.sources import generated_rows
from esft.tasks.synthetic import Draws, split_by_hash
from esft.tasks.task import Grade, Row, Task, ask, hub_task, one_answer, row_id

OPENING = "<think>"
FORMAT_SHARE = 0.1  # what the exact form of an answer adds to the reward
SIZES = {"train": 4000, "validation": 1000, "test": 1000}

_LARGEST_NUMBER = 999_999
_TARGET = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,30})?")
_TOLERANCE = Fraction(1, 10**9)  # files hold targets as printed floats, such as 14.318840579710146
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def read_countdown(raw: Mapping[str, Any]) -> Row:
    """A puzzle: its numbers (column numbers or nums), target and, where known, a solution.

    A solution that the grader refuses counts as none: some published ones are wrong.
    """
    numbers, target = _numbers_and_target(raw)
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
    correct = expression is not None and _reaches(expression, **row.facts)
    return Grade(reward=float(correct) + FORMAT_SHARE * format_of(answer), correct=correct)


def format_of(answer: str) -> float:
    """How well an answer keeps to the form that was asked for, whatever it says.

    1 for <think>...</think> <answer>...</answer>, each tag once and nothing around them; else 0.5
    for a pair of answer tags and 0.1 for a pair of think tags.
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


def _reaches(text: str, numbers: tuple[int, ...], target: Fraction) -> bool:
    value = evaluate(_expression(text, target), numbers)
    if value is None or target.denominator == 1:
        return value == target
    return abs(value - target) <= _TOLERANCE * abs(target)


def _expression(text: str, target: Fraction) -> str:
    """An expression, without the target where it is written as an equation."""
    sides = plain(text[:LONGEST]).split("=")
    if len(sides) == 2:
        sides = [side.strip() for side in sides if parse_number(side) != target]
    return "=".join(sides)


def _numbers_and_target(raw: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    """The numbers, and the target in plain decimal notation."""
    name = "nums" if "nums" in raw and "numbers" not in raw else "numbers"
    value = any_column(raw, name)
    if (
        not isinstance(value, list)
        or not 2 <= len(value) <= 6
        or not all(type(number) is int and 0 <= number <= _LARGEST_NUMBER for number in value)
    ):
        raise wrong_column(name, value, f"2 to 6 whole numbers from 0 to {_LARGEST_NUMBER:,}")
    target = any_column(raw, "target")
    text = str(target).strip() if isinstance(target, (int, float, str)) else ""
    if not _TARGET.fullmatch(text):
        raise wrong_column("target", target, 'a number, or a text with one such as "85" or "27.4"')
    return tuple(value), text


def _solution(raw: Mapping[str, Any], numbers: tuple[int, ...], target: Fraction) -> str | None:
    """The solution without parentheses around it all; None without one that the grader accepts."""
    value = raw.get("solution")
    if value is None:
        return None
    if not is_text(value):
        raise wrong_column("solution", value, "an expression, or null")
    if not _reaches(value, numbers, target):
        return None
    expression = _expression(value, target)
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
    worked = []
    for step in steps:
        left = step.left if step.left.denominator == 1 else f"({step.left})"
        plain = step.right.denominator == 1 and step.right >= 0
        right = step.right if plain else f"({step.right})"
        worked.append(f"{left} {step.sign} {right} = {step.value}")
    return f"{OPENING}{'; '.join(worked)}</think>\n<answer>{solution}</answer>"


@dataclass(frozen=True)
class _Result:
    value: int
    text: str
    binding: int = 3
    """How strongly the last sign of `text` binds: 1 for + and -, 2 for * and /, 3 for none."""


def puzzles(split: str) -> Iterator[dict[str, Any]]:
    """The puzzles of a split: numbers (3 or 4 from 1 to 99), target (10 to 100) and solution.

    Each target is the value of a random expression over all the numbers, in which every result
    is a whole number above 0, no product is above 999 and no step multiplies or divides by 1; it
    is none of the numbers. No split has the same numbers and target twice.
    """
    draws = Draws(20_250_929 + list(SIZES).index(split))
    seen: set[tuple[int, ...]] = set()
    while len(seen) < SIZES[split]:
        numbers = [1 + draws.below(99) for _ in range(3 + draws.below(2))]
        if split_of(numbers) != split:
            continue
        result = _random_result(numbers, draws)
        puzzle = (*sorted(numbers), result.value)
        if 10 <= result.value <= 100 and result.value not in numbers and puzzle not in seen:
            seen.add(puzzle)
            yield {"numbers": numbers, "target": result.value, "solution": result.text}


def split_of(numbers: Sequence[int]) -> str:
    """The split of all puzzles of these numbers, whatever their order."""
    return split_by_hash(",".join(map(str, sorted(numbers))))


def _random_result(numbers: Sequence[int], draws: Draws) -> _Result:
    """Join two random results at a time, by a random sign of those that fit, until one is left."""
    results = [_Result(number, str(number)) for number in numbers]
    while len(results) > 1:
        left = results.pop(draws.below(len(results)))
        right = results.pop(draws.below(len(results)))
        if left.value < right.value:
            left, right = right, left
        fitting = [("+", left.value + right.value)]
        if left.value > right.value:
            fitting.append(("-", left.value - right.value))
        # * and / fit seldom: where they do they are listed 8 times, to be drawn more often.
        if right.value > 1 and left.value * right.value <= 999:
            fitting.extend([("*", left.value * right.value)] * 8)
        if right.value > 1 and left.value % right.value == 0:
            fitting.extend([("/", left.value // right.value)] * 8)
        sign, value = fitting[draws.below(len(fitting))]
        binding = 1 if sign in "+-" else 2
        first = left.text if left.binding >= binding else f"({left.text})"
        second = right.text if right.binding > binding else f"({right.text})"
        results.append(_Result(value, f"{first} {sign} {second}", binding))
    return results[0]


_FIELDS: dict[str, Any] = {
    "grading": "1 where the last <answer>...</answer> reaches the target with every number used "
    "exactly once; plus 0.1 for the form <think>...</think> <answer>...</answer>, 0.05 for "
    "answer tags alone, 0.01 for think tags alone",
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
    make_source=partial(generated_rows, "generated countdown puzzles", puzzles),
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
