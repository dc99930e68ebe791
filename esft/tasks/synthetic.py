"""Synthetic tasks: copy, reverse, sort, add and the like, in a few characters each."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from esft.tasks.columns import text_column
from esft.tasks.generated import GeneratedRows
from esft.tasks.ids import made_id
from esft.tasks.synthetic_rows import KINDS, SPLITS, puzzles
from esft.tasks.task import Grade, Row, Task, ask, one_answer


def read_synthetic(name: str, raw: Mapping[str, Any]) -> Row:
    """A row of the synthetic task `name`, with prompt and answer.

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    prompt = text_column(raw, "prompt")
    answer = text_column(raw, "answer").strip()
    return Row(
        id=made_id(name, prompt),
        questions=(ask(prompt, reference=answer),),
        answer=answer,
    )


def grade_exact(row: Row, answer: str) -> Grade:
    """Reward 1 where the answer is the right one, character by character; 0 elsewhere.

    Space around the answer does not count.
    """
    correct = answer.strip() == row.answer
    return Grade(reward=float(correct), correct=correct)


def _generated(name: str) -> GeneratedRows:
    def make(split: str) -> list[dict[str, str]]:
        return [{"prompt": each.prompt, "answer": each.answer} for each in puzzles(name, split)]

    return GeneratedRows(name=f"generated {name} rows", make=make, splits=SPLITS)


def _task(name: str, summary: str) -> Task:
    return Task(
        name=name,
        summary=summary,
        source="rows that esft generates from a fixed seed",
        licence="Apache-2.0",
        size=", ".join(f"{size:,} {split}" for split, size in KINDS[name].sizes.items()),
        grading="1 where the answer is exactly the reference, else 0",
        scoring="exact",
        scorings=("exact", "generate"),
        max_new_tokens=8,
        file=name.replace("-", "_"),
        make_source=partial(_generated, name),
        read=partial(read_synthetic, name),
        grade=one_answer(grade_exact),
    )


PRIORS = (
    _task("copy-letters", "say 3 to 6 letters again: copy dgac"),
    _task("reverse-letters", "say 3 to 6 letters from last to first: reverse dgac"),
    _task("upper-letters", "say 3 to 6 letters in upper case: upper dgac"),
    _task("count-letter", "how often a letter comes in a word: count a in abca"),
    _task("sort-digits", "put 3 to 6 digits in order: sort 52813"),
    _task("largest-digit", "name the largest of 3 to 6 digits: largest 4719"),
)
"""Prior tasks of the embedded model: what it knows."""
TARGETS = (
    _task("add-two-digits", "add two numbers of two digits: 27+58"),
    _task("subtract-two-digits", "subtract two numbers of two digits: 84-39"),
)
"""Target tasks of the embedded model: what it does badly."""
SYNTHETIC = (*PRIORS, *TARGETS)
