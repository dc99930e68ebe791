"""Steps made again from a journal, without rollouts."""

from collections.abc import Callable

from esft.engine.drift import Drift
from esft.engine.journal import JournalStep
from esft.engine.journal_read import JournalRecord
from esft.engine.members import Member, population, with_coefficients


def replay(
    drift: Drift, record: JournalRecord, to: int, on_step: Callable[[int], None] | None = None
) -> None:
    """Bring a drift from the step it is at to step `to`, bit for bit as the run did.

    Args:
        drift: at a step of the same run, 0 included.
        record: the run's journal.
        to: the step to reach.
        on_step: called with each step made.

    Raises:
        ValueError: if `to` lies before the drift's step or behind the journal's last.
    """
    if not drift.steps <= to <= record.last:
        raise ValueError(f"to is {to}, expected {drift.steps} to {record.last}")
    for step in range(drift.steps + 1, to + 1):
        header = record.header_at(step)
        takers, coefficients = contributions(record.steps[step - 1], header)
        drift.step(takers, coefficients, header["alpha"], header["awd"], header["norm"])
        if on_step is not None:
            on_step(step)


def contributions(step: JournalStep, header: dict[str, object]) -> tuple[list[Member], list[float]]:
    """Return the members of a step that got a coefficient, and their coefficients."""
    members = population(header["seed"], step.step, header["population"], header["antithetic"])
    return with_coefficients(members, step.coefficients)
