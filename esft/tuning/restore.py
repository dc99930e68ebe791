"""The drift of a step, from the nearest snapshot and the journal."""

from collections.abc import Callable

from esft.engine.drift import Drift
from esft.engine.journal_read import JournalRecord, contributions
from esft.engine.members import net_coefficients
from esft.errors import AnchorError, SnapshotError
from esft.runs.snapshots import Snapshots


def load_nearest(
    drift: Drift,
    record: JournalRecord,
    to: int,
    snapshots: Snapshots,
    notice: Callable[[str], None],
) -> None:
    """Bring a drift to the newest good snapshot at or before step `to`, if that is ahead of it.

    Args:
        drift: of the run's base model, at an earlier step, 0 at first.
        record: the run's journal; a snapshot that does not fit it is passed over.
        to: the step that is wanted.
        snapshots: of the run.
        notice: told of those passed over.
    """
    for step in snapshots.steps():
        if not drift.steps < step <= to:
            continue
        try:
            drift.load(snapshots.read(step, record.checksums[step]))
        except (SnapshotError, AnchorError) as error:
            notice(f"{error}; an earlier state is taken")
            continue
        return


def noises(record: JournalRecord, since: int, to: int) -> int:
    """Return how many noises a replay from step `since` to step `to` draws for every weight."""
    return sum(
        len(net_coefficients(*contributions(step, record.header)))
        for step in record.steps[since:to]
    )
