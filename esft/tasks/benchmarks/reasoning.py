"""Benchmarks that are worked out step by step to an answer: GSM8K, MATH-500, ProofWriter."""

import re
from collections.abc import Mapping
from typing import Any

from esft.tasks.columns import text_column, word_column, wrong_column
from esft.tasks.graders.math_answers import grade_math
from esft.tasks.graders.numbers import last_number, parse_number
from esft.tasks.task import Grade, Row, ask, hub_task, made_id, one_answer
from esft.tasks.words import GRADERS

FORMAT_REWARD = 0.1  # of an answer to GSM8K or ProofWriter, right or wrong
ANSWERS = ("True", "False", "Unknown")  # of ProofWriter

_CALCULATION = re.compile(r"<<[^<>]*>>")
_FINAL_LINE = re.compile(r"^[ \t]*####[ \t]+(.*)$", re.MULTILINE)
_FORM = re.compile(rf"(?<!\w)Answer: ({'|'.join(ANSWERS)})[.*_` \t\r]*$", re.MULTILINE)
_BARE = re.compile(rf"[\W_]*(?:answer[\W_]*)?({'|'.join(ANSWERS)})[\W_]*", re.IGNORECASE)


def read_gsm8k(raw: Mapping[str, Any]) -> Row:
    """A row of openai/gsm8k; the number loses its separators, the solution its <<2+2=4>> marks."""
    question = text_column(raw, "question")
    solution = text_column(raw, "answer")
    worked, _, final = solution.rstrip().rpartition("\n")
    line = _FINAL_LINE.fullmatch(final)
    if line is None or parse_number(line[1]) is None:
        raise wrong_column("answer", solution, "a solution whose last line is #### and a number")
    number = line[1].replace(",", "").strip()
    asked = (
        f"{question}\n\nWork it out step by step. "
        'Then end with a line that holds "#### " and the number alone.'
    )
    reference = f"{_CALCULATION.sub('', worked)}\n#### {number}".lstrip()
    questions = (ask(asked, reference=reference),)
    return Row(id=made_id("gsm8k", question), questions=questions, answer=number)


def grade_gsm8k(row: Row, answer: str) -> Grade:
    """1 where the number is right, and 0.1 for the form "#### N", right or wrong.

    The form is a line of its own: "####", a space and what `parse_number` reads; the last such
    line counts. Without any, the last number of the answer is taken, which gives no 0.1.

    Source: the reward of arXiv:2605.30148 for GSM8K, correct + 0.1 * format.
    """
    lines = map(parse_number, _FINAL_LINE.findall(answer))
    final = [number for number in lines if number is not None]
    number = final[-1] if final else last_number(answer)
    correct = number is not None and number == parse_number(row.answer)
    return Grade(reward=correct + FORMAT_REWARD * bool(final), correct=correct)


def read_math_500(raw: Mapping[str, Any]) -> Row:
    """A row of HuggingFaceH4/MATH-500."""
    problem = text_column(raw, "problem")
    asked = f"{problem}\n\nWork it out step by step, and end with the answer in \\boxed{{}}."
    return Row(
        id=text_column(raw, "unique_id"),
        questions=(ask(asked, reference=text_column(raw, "solution")),),
        answer=text_column(raw, "answer"),
    )


def read_proofwriter(raw: Mapping[str, Any]) -> Row:
    """A row of tasksource/proofwriter; only theory, question, answer and id count."""
    theory = text_column(raw, "theory")
    statement = text_column(raw, "question")
    answer = word_column(raw, "answer", ANSWERS)
    asked = (
        f"Facts and rules:\n{theory}\n\nStatement: {statement}\n\n"
        "Does the statement follow from the facts and rules (True), does its opposite (False), or "
        'neither of the two (Unknown)? End with a line that says "Answer: True", "Answer: False" '
        'or "Answer: Unknown".'
    )
    return Row(
        id=text_column(raw, "id") if "id" in raw else made_id("proofwriter", theory, statement),
        questions=(ask(asked, reference=f"Answer: {answer}"),),
        answer=answer,
    )


def grade_proofwriter(row: Row, answer: str) -> Grade:
    """1 where the right word is named, and 0.1 for the form "Answer: True", right or wrong.

    The form is "Answer: " and one of the three words, in this case, at the end of a line (a full
    stop or marks of emphasis may follow); the last one counts. Without any, the last line that is
    one of the words alone, or "answer" and one of them, in any case and within any marks, is
    taken, which gives no 0.1.

    Source: the reward of arXiv:2605.30148 for ProofWriter, correct + 0.1 * format.
    """
    formed = _FORM.findall(answer)
    bare = [match[1] for match in map(_BARE.fullmatch, answer.split("\n")) if match]
    named = formed or [word.capitalize() for word in bare] or [None]
    correct = named[-1] == row.answer
    return Grade(reward=correct + FORMAT_REWARD * bool(formed), correct=correct)


REASONING = (
    hub_task(
        "gsm8k",
        "openai/gsm8k",
        "main",
        summary="word problems of grade school, worked out to a number",
        licence="MIT",
        size="7,473 train, 1,319 test",
        grading="1 where the number on the last line of the form #### N is right (without such a "
        "line, the last number of the answer), and 0.1 for having such a line",
        scorings=("generate",),
        max_new_tokens=256,
        max_reward=1 + FORMAT_REWARD,
        read=read_gsm8k,
        grade=one_answer(grade_gsm8k),
    ),
    hub_task(
        "math-500",
        "HuggingFaceH4/MATH-500",
        summary="problems of mathematics competitions, with a formula or a number as the answer",
        licence="MIT",
        size="500 test",
        grading=GRADERS["math"].grading,
        scorings=("generate",),
        max_new_tokens=512,
        read=read_math_500,
        grade=one_answer(grade_math),
    ),
    hub_task(
        "proofwriter",
        "tasksource/proofwriter",
        summary="whether a statement follows from facts and rules, or is unknown",
        licence="CC BY",
        size="published samples of 200 and 1,000 rows",
        grading="1 where the last Answer: True, Answer: False or Answer: Unknown is right (without "
        "one, a line of the word alone), and 0.1 for having one",
        scorings=("generate",),
        max_new_tokens=256,
        max_reward=1 + FORMAT_REWARD,
        read=read_proofwriter,
        grade=one_answer(grade_proofwriter),
    ),
)
