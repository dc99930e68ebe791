"""ProofWriter: what follows from facts and rules, and what cannot be known from them."""

import re
from collections.abc import Mapping
from typing import Any

from esft.tasks.columns import text_column, wrong_column
from esft.tasks.ids import made_id
from esft.tasks.task import Grade, HubSource, Row, Task, ask, one_answer

FORMAT_REWARD = 0.1
"""What an answer gets for its form, right or wrong."""
ANSWERS = ("True", "False", "Unknown")

_NAMES = "|".join(ANSWERS)
_FORM = re.compile(rf"(?<!\w)Answer: ({_NAMES})[.*_` \t\r]*$", re.MULTILINE)
_BARE = re.compile(rf"[\W_]*(?:answer[\W_]*)?({_NAMES})[\W_]*", re.IGNORECASE)


def read_proofwriter(raw: Mapping[str, Any]) -> Row:
    """A row of tasksource/proofwriter; of its columns only theory, question, answer and id count.

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    theory = text_column(raw, "theory")
    statement = text_column(raw, "question")
    answer = text_column(raw, "answer")
    if answer not in ANSWERS:
        raise wrong_column("answer", answer, f"one of {', '.join(ANSWERS)}")
    return Row(
        id=text_column(raw, "id") if "id" in raw else made_id("proofwriter", theory, statement),
        questions=(ask(_message(theory, statement), reference=f"Answer: {answer}"),),
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
    named = formed[-1] if formed else _bare_word(answer)
    correct = named == row.answer
    return Grade(reward=correct + FORMAT_REWARD * bool(formed), correct=correct)


def _bare_word(answer: str) -> str | None:
    found = [match[1] for match in map(_BARE.fullmatch, answer.split("\n")) if match]
    return found[-1].capitalize() if found else None


def _message(theory: str, statement: str) -> str:
    return (
        f"Facts and rules:\n{theory}\n\nStatement: {statement}\n\n"
        "Does the statement follow from the facts and rules (True), does its opposite (False), or "
        'neither of the two (Unknown)? End with a line that says "Answer: True", "Answer: False" '
        'or "Answer: Unknown".'
    )


PROOFWRITER = Task(
    name="proofwriter",
    summary="whether a statement follows from facts and rules, or is unknown",
    source="tasksource/proofwriter",
    licence="CC BY",
    size="published samples of 200 and 1,000 rows",
    grading="1 where the last Answer: True, Answer: False or Answer: Unknown is right (without "
    "one, a line of the word alone), and 0.1 for having one",
    scoring="generate",
    scorings=("generate",),
    max_new_tokens=256,
    max_reward=1 + FORMAT_REWARD,
    hub=HubSource(id="tasksource/proofwriter"),
    file="proofwriter",
    read=read_proofwriter,
    grade=one_answer(grade_proofwriter),
)
