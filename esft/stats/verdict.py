"""The verdict on a prior task: is its skill lost, or only drifting?

Every evaluation is compared with the base on the same rows, by `bootstrap_interval`. Words first:

- An evaluation is *level* if its 95 % interval lies within the margin (3 points by default).
- It is *down* if it lies more than the margin below the base and its strict interval lies below
  zero; *up* likewise. Strict: 2 % of errors, shared by all evaluations (Bonferroni), since each of
  them could look like a change by chance.
- It is *unclear* otherwise.
- The *drop* is the last stretch of evaluations that lie more than the margin below the base and
  of which at least one is down.
- The *movement* is the change along a line fitted to the last three evaluations (that is the
  third minus the first), or to the later half of those after the drop began where these are more.

The verdict is the first of these that holds:

1. The last evaluation is unclear: *not enough* rows.
2. It is up: *improved*.
3. It is level, and there was no drop: *unchanged*.
4. It is level: *recovered*.
5. It is down, and fewer than three evaluations came after the one that the drop began with: *down*,
   be it falling or settled, said with the number still to come; more rows would not help.
6. The movement is larger than the margin and its interval (98 %) excludes zero: *drifting*, be it
   further down or back up.
7. The 95 % interval of the movement lies within the margin, or nothing is left that could be lost,
   no row being right any more: *lost*.
8. Else the movement is unclear: *down*, said with the number of rows that would tell.

A slow movement, smaller than the margin over the evaluations looked at, counts as settled, and so
does one up and down that stays below the base; the text has the figures.

Chance makes a change where there is none in 2 % of the tasks at most, and a movement in 2 % more,
if a series is judged once, at its end; judged after every evaluation, it errs more often. Each
task is judged by itself: of many tasks, some will be judged wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from esft.stats.intervals import Interval, rows_needed
from esft.stats.series import AFTER_DROP, Change, Series

MARGIN = 0.03
"""A change that matters to no one is smaller than this: 3 points."""

# Share of the margin: changes nearer to the margin than this are not worth asking rows for.
_NEAREST = 0.25

Kind = Literal["unchanged", "improved", "drifting", "recovered", "lost", "down", "not enough"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What tuning did to a prior task."""

    kind: Kind
    text: str
    """For people, with the figures in points; "points" of a reward are hundredths."""
    difference: float
    """Last evaluation minus base, a fraction."""
    interval: Interval
    """At 95 %."""
    rows_needed: int | None = None
    """In all; None where rows are not what is missing, and likewise evaluations still to come."""
    evaluations_needed: int | None = None


def diagnose(
    base: Sequence[float], later: Mapping[int, Sequence[float]], margin: float = MARGIN
) -> Verdict:
    """Return the verdict by the rules of this module.

    Args:
        base: correct (0 or 1), or a reward from 0 to 1, row by row, before tuning.
        later: the same of the same rows at later steps, by step.
        margin: a fraction, > 0.

    Raises:
        ValueError: if there is no later evaluation or no row, a value is not finite, the numbers
            of rows differ, or the margin is not above 0.
    """
    series = Series(base, later, margin)
    last, drop = series.changes[-1], series.drop()
    if not (last.is_level or last.is_change):
        return _open("not enough", series, last, last.text)
    if last.is_change and not last.is_down:
        return _verdict("improved", series, f"{last.size} above the base {last.range}")
    if drop is None:
        return _verdict("unchanged", series, last.text)
    first, deepest = drop
    missing = max(0, AFTER_DROP - (len(series) - 1 - first))
    evaluations = f"{missing} more evaluation{'s' * (missing > 1)} would tell"
    if last.is_level:
        was = f"was down {series.changes[deepest].size} at step {series.steps[deepest]}"
        text = f"{was}, now {100 * last.difference:+.1f} {last.range}"
        if not missing:
            return _verdict("recovered", series, text)
        text += f"; {evaluations} whether it stays"
        return _verdict("recovered", series, text, evaluations_needed=missing)
    below = f"{last.size} below the base {last.range}"
    since = f"{below}, down since step {series.steps[first]}"
    if missing:
        text = f"{since}; falling or settled is open, {evaluations}"
        return _verdict("down", series, text, evaluations_needed=missing)
    positions = series.settling(first)
    movement = series.movement(positions)
    moved = f"{movement.text} from step {series.steps[positions[0]]} to {series.steps[-1]}"
    if movement.is_change:
        direction = "still falling" if movement.is_down else "coming back"
        return _verdict("drifting", series, f"{below}, {direction}: {moved}")
    if movement.is_level:
        return _verdict("lost", series, f"{since} and settled: {moved}")
    if not series.after[-1].any():
        return _verdict("lost", series, f"{since}: no row is right any more")
    return _open("down", series, movement, f"{below}; falling or settled is open: {moved}")


def _open(kind: Kind, series: Series, unclear: Change, text: str) -> Verdict:
    """Return a verdict that more rows would settle, with how many."""
    last, rows, margin = series.changes[-1], series.rows, series.margin
    asked = rows_needed(unclear.changed, margin)
    if asked <= rows:  # they would tell it from none; those that tell it from the margin:
        distance = max(abs(margin - abs(unclear.difference)), _NEAREST * margin)
        asked = max(2 * rows, rows_needed(unclear.changed, distance))
    if unclear is last and len(series) > AFTER_DROP and last.difference < -margin:
        # Where it turns out to be down, the next question is whether it moves: ask once for both.
        movement = series.movement(range(len(series) - AFTER_DROP, len(series)))
        asked = max(asked, rows_needed(movement.changed, margin))
    text += f"; {rows} rows are not enough to tell, about {asked} would be"
    return _verdict(kind, series, text, rows_needed=asked)


def _verdict(kind: Kind, series: Series, text: str, **needed: int) -> Verdict:
    last = series.changes[-1]
    return Verdict(
        kind=kind, text=text, difference=last.difference, interval=last.interval, **needed
    )
