"""Task know: does a model say that it knows exactly what it does know?

Each row of another task, its source, is asked twice, never in one chat: its question, and whether
the model knows the answer. With c = 1 where a right answer stands in the direct one, and y = 1
where the other says yes, a row is worth

- `both`, the task's own: c + [c = y], so 2 for known and claimed, 1 for unknown and denied or known
  and denied, 0 for unknown and claimed;
- `correct`: c alone; `align`: [c = y] alone;
- `confidence`: c + 1 - (c - p)^2 with p, in the place of y, the probability of Yes against No as
  the answer's first token, without generating it. Where a tokenizer makes several tokens of them,
  p is of the whole words.

An answer is yes or no by its first word. One that has both words, or begins with neither, is
unclear: it equals no c, so that saying neither is never worth more than either.

Source: arXiv:2602.02605 for the two questions, c, y and their rewards; the prompts are our own, and
so are what is unclear and `confidence`, with the Brier score in the place of [c = y].
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from esft.errors import TaskError
from esft.stats.knowing import Claim, Knowing
from esft.tasks.benchmarks.answers import SHORT
from esft.tasks.graders.text import nfc, occurs_any
from esft.tasks.synthetic import SYNTHETIC
from esft.tasks.task import Grade, Row, Task, ask
from esft.tasks.words import KNOW_REWARDS, MATCHES

ANSWERED_HINT = "take a source whose rows have answers in a few words, such as nq-open"


@dataclass(frozen=True)
class Wording:
    """How a row is asked, {} standing for the question of the source."""

    direct: str
    claim: str
    yes: str
    no: str


ENGLISH = Wording(
    direct=f"{{}}{SHORT.replace('words', 'keywords')}",
    claim="Here is a question; do not answer it.\n\n{}\n\nDo you know the right answer to it? "
    "Reply Yes if you know it and are sure, or No if you do not. Reply with that word alone.",
    yes="Yes",
    no="No",
)
LETTERS = Wording(direct="{}", claim="know {}", yes="y", no="n")
"""For the synthetic tasks: a model that knows no English is asked in its own few characters."""


def know_task(source: Task, name: str, match: str | None = None) -> Task:
    """The task, under this name, that asks rows of `source`.

    Args:
        match: how a right answer is found in the direct one, case folded: "substring", anywhere in
            it, as the paper does, or "words", as whole words. None takes substring, by which "no"
            is right in "Norway".

    Raises:
        TaskError: the rows of `source` have options to choose from instead of right answers.
    """
    if source.scoring == "choice":
        raise TaskError(
            f"task know has source {source.name}, whose rows have options to choose from, expected "
            "one whose rows have right answers",
            hint=ANSWERED_HINT,
        )
    match = MATCHES[0] if match is None else match
    short = source in SYNTHETIC
    return replace(
        source,
        name=name,
        summary=f"whether a model knows what it knows: rows of {source.name}, each asked twice",
        grading=f"1 where a right answer stands in the direct one ({match}), and 1 where the model "
        "says Yes, it knows, and that is so, or No and it is not",
        scorings=("generate",),
        max_new_tokens=source.max_new_tokens if short else 32,
        read=partial(read_know, source, LETTERS if short else ENGLISH),
        grade=partial(grade_know, match),
        max_reward=2.0,
        rewards=KNOW_REWARDS,
    )


def read_know(source: Task, wording: Wording, raw: Mapping[str, Any]) -> Row:
    """A row of `source`, asked twice; TaskError where it has no right answer."""
    row = source.read(raw)
    if row.answer is None or row.options or len(row.questions) > 1:
        has = "several questions" if len(row.questions) > 1 else "no right answer in words"
        raise TaskError(
            f"the row has {has}, expected one question and its answer", hint=ANSWERED_HINT
        )
    (asked,) = row.questions
    before, text = asked.messages[:-1], asked.messages[-1]["content"].removesuffix(SHORT)
    direct, claim = (
        ask(form.replace("{}", text), before=before) for form in (wording.direct, wording.claim)
    )
    direct = replace(direct, reference=row.answer)
    claim = replace(claim, words=(wording.yes, wording.no))
    return replace(row, questions=(direct, claim))


def grade_know(match: str, row: Row, answers: Sequence[str], p_yes: float | None = None) -> Grade:
    """What the direct answer and the claim are worth, see the top; `p_yes` where it is known."""
    direct, second = answers
    rights = (row.answer, *row.accepted)
    folded = nfc(direct).casefold()
    found = {
        "substring": any(nfc(right).casefold() in folded for right in rights),
        "words": occurs_any(rights, direct),
    }
    claim, right = claim_of(second, *row.questions[1].words), found[match]
    align = float(claim == ("yes" if right else "no"))
    others = {"both": right + align, "align": align}
    if p_yes is not None:
        others["confidence"] = right + 1 - (right - p_yes) ** 2
    knowing = Knowing(claim=claim, p_yes=p_yes, **found)
    return Grade(reward=right + align, correct=right, others=others, knowing=knowing)


def claim_of(answer: str, yes: str = ENGLISH.yes, no: str = ENGLISH.no) -> Claim:
    """What the answer says by its first word; unclear where that is neither, or both are there."""
    words = [word.casefold() for word in re.findall(r"\w+", answer)]
    named = {yes.casefold(): "yes", no.casefold(): "no"}
    if not words or words[0] not in named or named.keys() <= {*words}:
        return "unclear"
    return named[words[0]]
