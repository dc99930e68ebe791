"""Benchmarks of questions that are answered in a few words: TriviaQA, NQ-Open, conciseness."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from esft.tasks.columns import text_column, texts_column, wrong_column
from esft.tasks.graders.text import grade_short, normalised, occurs
from esft.tasks.task import Grade, Row, Task, ask, hub_task, made_id, one_answer, prompted_row

NO_REWARD_AT = 100  # characters of difference in length


def read_nq_open(raw: Mapping[str, Any]) -> Row:
    """A row of google-research-datasets/nq_open; the first of its answers is the reference."""
    question = text_column(raw, "question")
    answers = texts_column(raw, "answer")
    if not answers:
        raise wrong_column("answer", answers, "one answer or more")
    first, *others = dict.fromkeys(text.strip() for text in answers)
    return _short_row(made_id("nq-open", question), question, first, tuple(others))


def read_trivia_qa(raw: Mapping[str, Any]) -> Row:
    """A row of mandarjoshi/trivia_qa; its value and all aliases are right."""
    question = text_column(raw, "question")
    value = text_column(raw, "answer.value").strip()
    aliases = [alias.strip() for alias in texts_column(raw, "answer.aliases")]
    answer = _without_capitals(value, aliases)
    accepted = tuple(dict.fromkeys(text for text in (value, *aliases) if text != answer))
    return _short_row(text_column(raw, "question_id"), question, answer, accepted)


def _without_capitals(value: str, aliases: list[str]) -> str:
    """For a value like "DIEPPE" the alias "Dieppe", or one that differs by more than capitals."""
    if not value.isupper() or len(value) < 4:  # "USA" is not "Usa"
        return value
    plain = [alias for alias in aliases if not alias.isupper()]
    same = [alias for alias in plain if normalised(alias) == normalised(value)]
    return min(same, key=lambda alias: alias.casefold() != value.casefold(), default=value)


def _short_row(id: str, question: str, answer: str, accepted: tuple[str, ...]) -> Row:
    asked = f"{question}\n\nReply with the answer alone, in a few words."
    return Row(id=id, questions=(ask(asked, reference=answer),), answer=answer, accepted=accepted)


def grade_conciseness(row: Row, answer: str) -> Grade:
    """Reward the length of the reference: max(0, 1 - |difference in characters| / 100).

    The reward does not look at the words; correct says whether the reference is among them, as
    whole words, ignoring case. Characters are those of the answer without the space around it.

    Source: the conciseness task of arXiv:2509.24372, whose reward is minus the difference; ours
    is brought to 0..1 like that of every task.
    """
    difference = abs(len(answer.strip()) - len(row.answer))
    return Grade(reward=max(0.0, 1 - difference / NO_REWARD_AT), correct=occurs(row.answer, answer))


_short_task = partial(
    hub_task,
    grading="best token F1 with an accepted answer; correct where one is equal but for case, "
    "punctuation and articles",
    scorings=("generate",),
    max_new_tokens=32,
    grade=one_answer(grade_short),
    splits={"train": "train", "validation": "validation"},
)

NQ_OPEN = _short_task(
    "nq-open",
    "google-research-datasets/nq_open",
    "nq_open",
    summary="questions that people typed into a search engine, answered in a few words",
    source="google-research-datasets/nq_open",
    licence="CC BY-SA 3.0",
    size="87,925 train, 3,610 validation",
    read=read_nq_open,
)
TRIVIA_QA = _short_task(
    "trivia-qa",
    "mandarjoshi/trivia_qa",
    "rc.nocontext",
    summary="quiz questions, answered in a few words",
    licence="Apache-2.0",
    size="138,384 train, 17,944 validation",
    read=read_trivia_qa,
)
CONCISENESS = Task(
    name="conciseness",
    summary="short questions of general knowledge, answered as briefly as the reference",
    source="rows that ship with esft",
    licence="Apache-2.0",
    size="220 train, 220 validation, 200 test",
    grading="1 - difference in characters to the reference / 100, at least 0; correct where the "
    "reference occurs in the answer, as whole words",
    scorings=("generate",),
    max_new_tokens=64,
    file="conciseness",
    read=partial(prompted_row, "conciseness"),
    grade=one_answer(grade_conciseness),
)
