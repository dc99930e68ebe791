"""Countdown puzzles made from a fixed seed: always solvable, the same on every machine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from esft.tasks.generated import Draws, split_by_hash

SIZES = {"train": 4000, "validation": 1000, "test": 1000}
LARGEST_NUMBER = 99
TARGETS = range(10, 101)

_LARGEST_PRODUCT = 999
_OFTEN = 8
_SEED = 20_250_929


def puzzles(split: str) -> Iterator[dict[str, Any]]:
    """The puzzles of a split: numbers (3 or 4 from 1 to 99), target (10 to 100) and solution.

    Each target is the value of a random expression over all the numbers, in which every result
    is a whole number above 0, no product is above 999 and no step multiplies or divides by 1; it
    is none of the numbers.

    Which split a puzzle belongs to follows from a hash of its sorted numbers, so that no two
    splits share a set of numbers in any order. No split has the same numbers and target twice.
    """
    draws = Draws(_SEED + list(SIZES).index(split))
    seen: set[tuple[int, ...]] = set()
    while len(seen) < SIZES[split]:
        numbers = [1 + draws.below(LARGEST_NUMBER) for _ in range(3 + draws.below(2))]
        if split_of(numbers) != split:
            continue
        result = _random_result(numbers, draws)
        if result.value not in TARGETS or result.value in numbers:
            continue
        puzzle = (*sorted(numbers), result.value)
        if puzzle not in seen:
            seen.add(puzzle)
            yield {"numbers": numbers, "target": result.value, "solution": result.text}


def split_of(numbers: Sequence[int]) -> str:
    """The split of all puzzles of these numbers, whatever their order."""
    return split_by_hash(",".join(map(str, sorted(numbers))))


@dataclass(frozen=True)
class _Result:
    value: int
    text: str
    binding: int = 3
    """How strongly the last sign of `text` binds: 1 for + and -, 2 for * and /, 3 for none."""


def _random_result(numbers: Sequence[int], draws: Draws) -> _Result:
    """Join two random results at a time, by a random sign of those that fit, until one is left."""
    results = [_Result(number, str(number)) for number in numbers]
    while len(results) > 1:
        left = results.pop(draws.below(len(results)))
        right = results.pop(draws.below(len(results)))
        if left.value < right.value:
            left, right = right, left
        fitting = _fitting(left.value, right.value)
        sign, value = fitting[draws.below(len(fitting))]
        results.append(_joined(left, sign, right, value))
    return results[0]


def _fitting(left: int, right: int) -> list[tuple[str, int]]:
    """The signs that give a whole result above 0, with their results; left >= right.

    * and / fit seldom: where they do they are listed several times, to be drawn more often.
    """
    fitting = [("+", left + right)]
    if left > right:
        fitting.append(("-", left - right))
    if right > 1 and left * right <= _LARGEST_PRODUCT:
        fitting.extend([("*", left * right)] * _OFTEN)
    if right > 1 and left % right == 0:
        fitting.extend([("/", left // right)] * _OFTEN)
    return fitting


def _joined(left: _Result, sign: str, right: _Result, value: int) -> _Result:
    binding = 1 if sign in "+-" else 2
    first = left.text if left.binding >= binding else f"({left.text})"
    second = right.text if right.binding > binding else f"({right.text})"
    return _Result(value, f"{first} {sign} {second}", binding)
