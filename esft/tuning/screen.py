"""Rows that tell members nothing are left out of steps for a while: [search] screen_rows.

A row on which all members had the same reward in each of its last 3 steps rests. It misses the next
4 turns that it would have had and is looked at once; it rests again if members still do not differ.
Of z-scores and ranks, a row that is the same for all changes nothing: what a step without it lacks
is what members would have differed by on it now.

What rests follows from the journal, whose lines say which of the rows seen were silent. Where all
rows of a step rest, it sees them all.
"""

from collections import Counter
from collections.abc import Sequence

from esft.engine.journal_read import JournalRecord
from esft.tuning.session import Session

SILENT, MISSED = 3, 4
"""Steps after which a row rests, and turns that it misses then."""


class Screen:
    """Which rows rest; takes the steps of a run in their order."""

    def __init__(self) -> None:
        self._silent: Counter[int] = Counter()  # steps in a row, by row
        self._missed: Counter[int] = Counter()

    def seen(self, rows: Sequence[int]) -> list[int]:
        """Return those of the rows, whose turn it is in the step to come, that it sees."""
        return [row for row in rows if not self._rests(row)] or list(rows)

    def note(self, rows: Sequence[int], silent: Sequence[bool]) -> None:
        """Note a step.

        Args:
            rows: whose turn it was.
            silent: of each of those that it saw, in their order.
        """
        seen = self.seen(rows)
        for row in set(rows) - set(seen):
            self._missed[row] += 1
        for row, same in dict(zip(seen, silent, strict=True)).items():
            self._missed[row] = 0
            self._silent[row] = self._silent[row] + 1 if same else 0

    def _rests(self, row: int) -> bool:
        return self._silent[row] >= SILENT and self._missed[row] < MISSED


def screen_of(session: Session, record: JournalRecord) -> Screen | None:
    """Return which rows rest after the steps of a journal; None where no row does."""
    if not session.recipe.search.screen_rows:
        return None
    screen = Screen()
    for line in record.steps[session.before :]:
        turns = session.turns(line.step)
        screen.note(turns, from_hex(line.silent, len(screen.seen(turns))))
    return screen


def as_hex(silent: Sequence[bool]) -> str:
    """Return which of some rows were silent as hexadecimal digits, the first in the last bit."""
    return f"{sum(1 << at for at, same in enumerate(silent) if same):x}"


def from_hex(text: str, count: int) -> list[bool]:
    """Return what `as_hex` wrote of so many rows; ValueError if it is of more."""
    bits = int(text, 16)
    if bits < 0 or bits >> count:
        raise ValueError(f"silent is {text!r}, expected at most {count} bits")
    return [bool(bits >> at & 1) for at in range(count)]
