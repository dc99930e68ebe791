"""The signal meter: whether the rewards of a run's first steps tell its members apart, and why not.

Of each step (`StepSignal`): the share of silent rows, on which all members have the same reward;
the reliability of the members' rewards, and how likely chance alone sets them apart as much, both
of `esft.stats.signal`; and the share of answers that were cut off. After three steps it says what
they come to together.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from esft.rollout.results import RowResult, cut_share
from esft.runs.records import metrics
from esft.runs.steps import StepSignal
from esft.stats.signal import chance_of_spread, combined, reliability
from esft.tuning.first_steps import remedies
from esft.tuning.session import Session

STEPS = 3
SILENT, CUT = 0.5, 0.2
"""Shares of rows and answers from which on the verdict speaks of them."""
CHANCE = 0.05
"""Above it, what sets members apart may be chance alone."""

Results = Sequence[Sequence[RowResult]]
"""Of each member, row by row."""


def signal_of_step(results: Results, seed: int | None = None) -> StepSignal | None:
    """Return what the members' results tell; None with fewer than two finite members.

    `seed` is that of the deals by which chance is told (see `chance_of_spread`); None tells none.
    """
    rewards = np.array([[result.reward for result in member] for member in results])
    rewards = rewards[np.isfinite(rewards).all(axis=1)]
    if len(rewards) < 2:
        return None
    judged = [[result.correct for result in row] for row in zip(*results, strict=True)]
    known = all(None not in row for row in judged)
    return StepSignal(
        silent=fmean(silent_rows(results)),
        solved=fmean(map(all, judged)) if known else None,
        reliability=reliability(rewards) if rewards.shape[1] > 1 else None,
        chance=None if seed is None else chance_of_spread(rewards, seed),
        cut=cut_share([result for member in results for result in member]),
    )


def silent_rows(results: Results) -> list[bool]:
    """Return of each row whether all members with finite rewards, two at least, have the same."""
    rewards = np.array([[result.reward for result in member] for member in results])
    finite = rewards[np.isfinite(rewards).all(axis=1)]
    if len(finite) < 2:
        return [False] * rewards.shape[1]
    return (finite == finite[:1]).all(axis=0).tolist()


class Meter:
    """Measures the steps of a run, or of a stage of it, and says once what the first come to."""

    def __init__(self, session: Session, run: Path) -> None:
        """`run`: a folder that has the signals of earlier steps on record, if there were any."""
        self._session = session
        lines = [line for line in metrics(run) if line.step > session.before]
        self._said = any(line.verdict is not None for line in lines)
        signals = (line.signal for line in lines)
        self._first = [one for one in signals if one is not None and one.chance is not None]

    def measure(
        self, step: int, rows: Sequence[int], results: Results
    ) -> tuple[StepSignal | None, str | None]:
        """Return the signal of a step, and what the first ones come to once they are measured.

        `rows`: which rows the results are of. One that is there twice counts once: greedy answers
        to it are the same, which is no sign of a signal.
        """
        first = sorted({row: at for at, row in reversed([*enumerate(rows)])}.values())
        results = [[member[at] for at in first] for member in results]
        search = self._session.recipe.search
        if self._said:
            return signal_of_step(results), None
        signal = signal_of_step(results, search.seed)
        self._first += [] if signal is None else [signal]
        if not self._first or (len(self._first) < STEPS and step < search.steps):
            return signal, None
        self._said = True
        return signal, verdict_of(self._first, self._session)


def verdict_of(signals: Sequence[StepSignal], session: Session) -> str:
    """Return whether the first steps show a signal, and what to know of it."""
    silent, chance = fmean(one.silent for one in signals), combined([one.chance for one in signals])
    nothing = f"{silent:.0%} of rows tell members nothing"
    solved = fmean(one.solved or 0.0 for one in signals)
    ways = "harder rows" if solved > silent / 2 else remedies(session)[0]
    if chance <= CHANCE:
        shares = [max(0.0, one.reliability) for one in signals if one.reliability is not None]
        text = "yes: members differ by more than chance"
        if shares:
            text = f"yes: {fmean(shares):.0%} of what ranks the members is signal, the rest chance"
        if silent >= SILENT:
            text += f"; {nothing}: {ways}"
            if not session.recipe.search.screen_rows:
                text += ", or --set search.screen_rows=true, which leaves such rows out"
    elif silent >= SILENT:
        text = f"none seen yet: {nothing}, the others what chance does; try {ways}"
    else:
        text = "none seen yet: what ranks the members may be chance alone; more rows a step or "
        text += "members, or another sigma (esft probe) would tell"
    cut = [one.cut for one in signals if one.cut is not None]
    if cut and fmean(cut) >= CUT:
        cap = session.rollout.max_new_tokens
        text += f"; {fmean(cut):.0%} of answers are cut off: --set task.max_new_tokens={2 * cap}"
    return text
