"""GSM8K: grade school word problems, each with a worked solution that ends in a number."""

import re
from collections.abc import Mapping
from typing import Any

from esft.tasks.columns import text_column, wrong_column
from esft.tasks.graders.numbers import last_number, parse_number
from esft.tasks.ids import made_id
from esft.tasks.task import Grade, HubSource, Row, Task, ask, one_answer

FORMAT_REWARD = 0.1
"""What an answer gets for its form, right or wrong."""

_CALCULATION = re.compile(r"<<[^<>]*>>")
_FINAL_LINE = re.compile(r"^[ \t]*####[ \t]+(.*)$", re.MULTILINE)


def read_gsm8k(raw: Mapping[str, Any]) -> Row:
    """A row of openai/gsm8k; the number loses its separators, the solution its <<2+2=4>> marks.

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    question = text_column(raw, "question")
    solution = text_column(raw, "answer")
    worked, _, final = solution.rstrip().rpartition("\n")
    line = _FINAL_LINE.fullmatch(final)
    if line is None or parse_number(line[1]) is None:
        raise wrong_column("answer", solution, "a solution whose last line is #### and a number")
    number = line[1].replace(",", "").strip()
    reference = f"{_CALCULATION.sub('', worked)}\n#### {number}".lstrip()
    return Row(
        id=made_id("gsm8k", question),
        questions=(ask(_message(question), reference=reference),),
        answer=number,
    )


def grade_gsm8k(row: Row, answer: str) -> Grade:
    """1 where the number is right, and 0.1 for the form "#### N", right or wrong.

    The form is a line of its own: "####", a space and what `parse_number` reads; the last such
    line counts. Without any, the last number of the answer is taken, which gives no 0.1.

    Source: the reward of arXiv:2605.30148 for GSM8K, correct + 0.1 * format.
    """
    final = [parse_number(line[1]) for line in _FINAL_LINE.finditer(answer)]
    final = [number for number in final if number is not None]
    number = final[-1] if final else last_number(answer)
    correct = number is not None and number == parse_number(row.answer)
    return Grade(reward=correct + FORMAT_REWARD * bool(final), correct=correct)


def _message(question: str) -> str:
    return (
        f"{question}\n\nWork it out step by step. "
        'Then end with a line that holds "#### " and the number alone.'
    )


GSM8K = Task(
    name="gsm8k",
    summary="word problems of grade school, worked out to a number",
    source="openai/gsm8k, main",
    licence="MIT",
    size="7,473 train, 1,319 test",
    grading="1 where the number on the last line of the form #### N is right (without such a line, "
    "the last number of the answer), and 0.1 for having such a line",
    scoring="generate",
    scorings=("generate",),
    max_new_tokens=256,
    max_reward=1 + FORMAT_REWARD,
    hub=HubSource(id="openai/gsm8k", config="main"),
    file="gsm8k",
    read=read_gsm8k,
    grade=one_answer(grade_gsm8k),
)
