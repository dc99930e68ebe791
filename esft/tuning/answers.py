"""Which rows of a run are shown with what was answered to them, and what is kept of them all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from esft.engine.members import Member
from esft.files import write_whole
from esft.recipe.settings import Recipe
from esft.rollout.encode import EncodedRow
from esft.rollout.results import RowResult, mean_reward
from esft.rollout.typed import json_text
from esft.runs.records import RecordedRow

SHOWN = 3
"""Rows that are shown before and after where nothing else is asked for."""
ALIKE = 3
"""Words that all rows may begin with and that are shown all the same."""
_BETWEEN = 20
"""Steps of a run from which something is shown; at least every fourth step stays without."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A row and what was answered to it, to show."""

    asked: str
    wanted: str | None
    """A right answer; None where there is none on record."""
    answers: tuple[tuple[str, RowResult], ...]
    """Who answered ("base", "tuned", "best"), and what came of it."""


@dataclass(frozen=True, kw_only=True)
class KeptRow(RecordedRow):
    """A line of a file in answers/: what a member made of a row."""

    member: int  # from 1
    seed: int
    sign: int


def samples(
    rows: Sequence[EncodedRow], count: int, **by: Sequence[RowResult]
) -> tuple[Sample, ...]:
    """Return the first `count` rows with their answers by whom; rows without answers are none.

    Words that all rows begin with would fill a line and tell nothing: of many, … is left.
    """
    asked = [
        "\n".join(question.messages[-1]["content"] for question in one.row.questions)
        for one in rows
    ]
    words = [text.split() for text in asked]
    columns = zip(*words, strict=False)
    alike = sum(1 for _ in takewhile(lambda column: len({*column}) == 1, columns))
    if ALIKE < alike < max(map(len, words)):
        asked = [f"… {' '.join(one[alike:])}" for one in words]
    return tuple(
        Sample(
            asked=asked[at],
            wanted=one.row.shown["wanted"],
            answers=tuple((who, by[who][at]) for who in by),
        )
        for at, one in enumerate(rows[:count])
        if all(by[who][at].answers for who in by)
    )


def shown_before_and_after(recipe: Recipe) -> int:
    """Return how many holdout rows are shown before the first step and at the end."""
    return SHOWN if recipe.run.show_answers is None else recipe.run.show_answers


def step_samples(
    recipe: Recipe, step: int, rows: Sequence[EncodedRow], results: Sequence[Sequence[RowResult]]
) -> tuple[Sample, ...]:
    """Return what is shown of a step: every few steps a row with the answer of a middling member.

    Where rows are asked for by number, so many with the best and the worst member. Each time they
    are others.
    """
    count = 1 if recipe.run.show_answers is None else recipe.run.show_answers
    if step % max(4, math.ceil(recipe.search.steps / _BETWEEN)):
        return ()
    finite = [member for member in results if math.isfinite(mean_reward(member))]
    ranked = sorted(finite, key=mean_reward)
    by = {"middling": ranked[len(ranked) // 2]}
    if recipe.run.show_answers is not None:
        by = {"best": ranked[-1], "worst": ranked[0]}
    first = step * count % len(rows)
    turned = {who: [*member[first:], *member[:first]] for who, member in by.items()}
    return samples([*rows[first:], *rows[:first]], count, **turned)


def keep_answers(
    run: Path,
    step: int,
    members: Sequence[Member],
    rows: Sequence[EncodedRow],
    results: Sequence[Sequence[RowResult]],
) -> None:
    """Write all answers of a step to answers/ of a run, a line a member and row."""
    lines = [
        KeptRow(
            member=number, **vars(member), **one.row.shown, id=one.row.id, key=one.row.key,
            **vars(result),
        )
        for number, (member, made) in enumerate(zip(members, results, strict=True), start=1)
        for one, result in zip(rows, made, strict=True)
    ]  # fmt: skip
    write_whole(run / "answers" / f"step-{step}.jsonl", "".join(f"{json_text(x)}\n" for x in lines))
