"""Benchmarks whose answers are written: worked out to an end, or in a few words."""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from esft.tasks.columns import text_column, texts_column, word_column, wrong_column
from esft.tasks.graders.math_answers import grade_math
from esft.tasks.graders.numbers import last_number, parse_number
from esft.tasks.graders.text import grade_short, normalised, occurs
from esft.tasks.task import Grade, Row, Task, ask, hub_task, made_id, one_answer, prompted_row
from esft.tasks.words import GRADERS

FORMAT_REWARD = 0.1  # of an answer to GSM8K or ProofWriter, right or wrong
ANSWERS = ("True", "False", "Unknown")  # of ProofWriter

SHORT = "\n\nReply with the answer alone, in a few words."
_CALCULATION = re.compile(r"<<[^<>]*>>")
_FINAL_LINE = re.compile(r"^[ \t]*####[ \t]+(.*)$", re.MULTILINE)
_FORM = re.compile(rf"(?<!\w)Answer: ({'|'.join(ANSWERS)})[.*_` \t\r]*$", re.MULTILINE)
_BARE = re.compile(
    rf"[\W_]*(?:(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:answer|statement)(?: is)?[\W_]*)?"
    rf"({'|'.join(ANSWERS)})[\W_]*",
    re.IGNORECASE,
)


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
    return _asking_row(made_id("gsm8k", question), asked, reference, number)


def grade_gsm8k(row: Row, answer: str) -> Grade:
    """1 where the number is right, and 0.1 for the form "#### N", right or wrong.

    The form is a line of "####", a space and what `parse_number` reads; the last such line counts.
    Without any, the last number of the answer is taken.

    Source: the reward of arXiv:2605.30148 for GSM8K, correct + 0.1 * format.
    """
    lines = map(parse_number, _FINAL_LINE.findall(answer))
    final = [number for number in lines if number is not None]
    number = final[-1] if final else last_number(answer)
    correct = number is not None and number == parse_number(row.answer)
    return Grade(reward=correct + FORMAT_REWARD * bool(final), correct=correct)


def read_math_500(raw: Mapping[str, Any]) -> Row:
    """A row of HuggingFaceH4/MATH-500."""
    problem, solution = text_column(raw, "problem"), text_column(raw, "solution")
    asked = f"{problem}\n\nWork it out step by step, and end with the answer in \\boxed{{}}."
    return _asking_row(text_column(raw, "unique_id"), asked, solution, text_column(raw, "answer"))


def read_proofwriter(raw: Mapping[str, Any]) -> Row:
    """A row of tasksource/proofwriter; only theory, question, answer and id count."""
    theory, statement = text_column(raw, "theory"), text_column(raw, "question")
    answer = word_column(raw, "answer", ANSWERS)
    asked = (
        f"Facts and rules:\n{theory}\n\nStatement: {statement}\n\n"
        "Does the statement follow from the facts and rules (True), does its opposite (False), or "
        'neither of the two (Unknown)? End with a line that says "Answer: True", "Answer: False" '
        'or "Answer: Unknown".'
    )
    id = text_column(raw, "id") if "id" in raw else made_id("proofwriter", theory, statement)
    return _asking_row(id, asked, f"Answer: {answer}", answer)


def grade_proofwriter(row: Row, answer: str) -> Grade:
    """1 where the right word is named, and 0.1 for the form "Answer: True", right or wrong.

    The form is "Answer: " and one of the words at the end of a line; the last one counts. Without
    any, the last line of one word alone, or behind "the answer is", in any case and marks, is
    taken.

    Source: the reward of arXiv:2605.30148 for ProofWriter, correct + 0.1 * format.
    """
    formed = _FORM.findall(answer)
    bare = [match[1] for match in map(_BARE.fullmatch, answer.split("\n")) if match]
    named = formed or [word.capitalize() for word in bare] or [None]
    correct = named[-1] == row.answer
    return Grade(reward=correct + FORMAT_REWARD * bool(formed), correct=correct)


def read_nq_open(raw: Mapping[str, Any]) -> Row:
    """A row of google-research-datasets/nq_open; the first of its answers is the reference."""
    question = text_column(raw, "question")
    answers = texts_column(raw, "answer")
    if not answers:
        raise wrong_column("answer", answers, "one answer or more")
    first, *others = dict.fromkeys(text.strip() for text in answers)
    return _asking_row(made_id("nq-open", question), question + SHORT, first, first, others)


def read_trivia_qa(raw: Mapping[str, Any]) -> Row:
    """A row of mandarjoshi/trivia_qa; its value and all aliases are right."""
    question = text_column(raw, "question")
    value = text_column(raw, "answer.value").strip()
    aliases = [alias.strip() for alias in texts_column(raw, "answer.aliases")]
    answer = value
    if value.isupper() and len(value) >= 4:  # "Dieppe" for "DIEPPE", but not "Usa" for "USA"
        plain = [alias for alias in aliases if not alias.isupper()]
        same = [alias for alias in plain if normalised(alias) == normalised(value)]
        answer = min(same, key=lambda alias: alias.casefold() != value.casefold(), default=value)
    others = dict.fromkeys(text for text in (value, *aliases) if text != answer)
    id = text_column(raw, "question_id")
    return _asking_row(id, question + SHORT, answer, answer, others)


def _asking_row(
    id: str, asked: str, reference: str, answer: str, accepted: Iterable[str] = ()
) -> Row:
    questions = (ask(asked, reference=reference),)
    return Row(id=id, questions=questions, answer=answer, accepted=tuple(accepted))


def grade_conciseness(row: Row, answer: str) -> Grade:
    """Reward the length of the reference: max(0, 1 - |difference in characters| / 100).

    Correct says whether the reference is among the words, ignoring case.

    Source: the conciseness task of arXiv:2509.24372, whose reward is minus the difference; ours
    is brought to 0..1 like that of every task.
    """
    difference = abs(len(answer.strip()) - len(row.answer))
    return Grade(reward=max(0.0, 1 - difference / 100), correct=occurs(row.answer, answer))


_short_task = partial(
    hub_task,
    grading="best token F1 with an accepted answer; correct where one is equal but for case, "
    "punctuation and articles",
    max_new_tokens=32,
    grade=one_answer(grade_short),
    splits={"train": "train", "validation": "validation"},
)

ANSWERED = (
    hub_task(
        "gsm8k",
        "openai/gsm8k, main",
        summary="word problems of grade school, worked out to a number",
        licence="MIT",
        size="7,473 train, 1,319 test",
        grading="1 where the number on the last line of the form #### N is right (without such a "
        "line, the last number of the answer), and 0.1 for having such a line",
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
        max_new_tokens=256,
        max_reward=1 + FORMAT_REWARD,
        read=read_proofwriter,
        grade=one_answer(grade_proofwriter),
    ),
    _short_task(
        "nq-open",
        "google-research-datasets/nq_open, nq_open",
        summary="questions that people typed into a search engine, answered in a few words",
        source="google-research-datasets/nq_open",
        licence="CC BY-SA 3.0",
        size="87,925 train, 3,610 validation",
        read=read_nq_open,
    ),
    _short_task(
        "trivia-qa",
        "mandarjoshi/trivia_qa, rc.nocontext",
        summary="quiz questions, answered in a few words",
        licence="Apache-2.0",
        size="138,384 train, 17,944 validation",
        read=read_trivia_qa,
    ),
    Task(
        name="conciseness",
        summary="short questions of general knowledge, answered as briefly as the reference",
        source="rows that ship with esft",
        licence="Apache-2.0",
        size="220 train, 220 validation, 200 test",
        grading="1 - difference in characters to the reference / 100, at least 0; correct where "
        "the reference occurs in the answer, as whole words",
        max_new_tokens=64,
        file="conciseness",
        read=partial(prompted_row, "conciseness"),
        grade=one_answer(grade_conciseness),
    ),
)
