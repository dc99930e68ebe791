"""Which rows became better, worse or stayed as they were: what was asked, both answers, rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esft.rollout.typed import known
from esft.runs.records import RecordedRow, RecordedScore

SHOWN = 6
"""Rows of each kind, at most."""

Rows = Mapping[tuple[str, str], RecordedRow]  # by id and key, in the order of the evaluation


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a model made of a row; None where nothing was looked at, no row of the task counts as
    right, or the model overflowed."""

    answer: str | None
    correct: bool | None
    reward: float | None


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """A row with the answers of the base and of the tuned model."""

    id: str
    question: str | None  # None where an older esft recorded the row, as for `wanted`
    wanted: str | None  # a right answer
    before: Said
    after: Said


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows with the same thing done to them."""

    total: int
    shown: tuple[ShownRow, ...]  # the first, at most SHOWN


@dataclass(frozen=True, kw_only=True)
class TaskAnswers:
    """What became of the answers to a task's rows from the base to a later step."""

    task: str
    role: str
    step: int
    gained: Group  # wrong before and right after; or, where no row is right, of a higher reward
    lost: Group
    unchanged: Group


def answers_of(score: RecordedScore, base: Rows, now: Rows) -> TaskAnswers | None:
    """Return what became of the rows from the base to an evaluation; None unless both have them."""
    if not base or [*base] != [*now]:
        return None
    judged = any(row.correct for row in (*base.values(), *now.values()))
    groups: dict[int, list[tuple[RecordedRow, RecordedRow]]] = {1: [], -1: [], 0: []}
    for pair in zip(base.values(), now.values(), strict=True):
        before, after = (bool(row.correct) if judged else row.reward for row in pair)
        groups[(after > before) - (after < before)].append(pair)
    gained, lost, unchanged = (_group(pairs, judged) for pairs in groups.values())
    place = {"task": score.task, "role": score.role, "step": score.step}
    return TaskAnswers(**place, gained=gained, lost=lost, unchanged=unchanged)


def _group(pairs: list[tuple[RecordedRow, RecordedRow]], judged: bool) -> Group:
    shown = [
        ShownRow(
            id=before.id,
            question=before.question,
            wanted=before.wanted,
            before=_said(before, judged),
            after=_said(after, judged),
        )
        for before, after in pairs[:SHOWN]
    ]
    return Group(total=len(pairs), shown=tuple(shown))


def _said(row: RecordedRow, judged: bool) -> Said:
    answer = "\n\n".join(row.answers) if row.answers else None
    return Said(answer=answer, correct=row.correct if judged else None, reward=known(row.reward))
