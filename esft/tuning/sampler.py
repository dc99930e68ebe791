"""Which rows a step sees."""

import hashlib

from esft.engine.noise import derived_seed
from esft.tasks.task import Row


class RowSampler:
    """Deals rows in seeded order, none twice within a pass; a pure function of the position.

    Args:
        total: rows there are.
        per_step: rows a step sees; None takes all, in their own order.
        seed: of the run.
    """

    def __init__(self, total: int, per_step: int | None, seed: int) -> None:
        self._total = total
        self.per_step = total if per_step is None else per_step
        self._seed = seed

    def position(self, step: int) -> int:
        """Return how many rows were dealt before `step`, counted from 1."""
        return (step - 1) * self.per_step

    def take(self, step: int) -> list[int]:
        """Return the places of the rows that `step` sees."""
        if self.per_step == self._total:
            return list(range(self._total))
        positions = range(self.position(step), self.position(step + 1))
        passes = {position // self._total for position in positions}
        orders = {number: self._order(number) for number in passes}
        return [orders[position // self._total][position % self._total] for position in positions]

    def _order(self, number: int) -> list[int]:
        # By hash, not random.shuffle, whose order may change with the Python version.
        return sorted(
            range(self._total), key=lambda row: derived_seed("rows", self._seed, number, row)
        )


def rows_hash(rows: tuple[Row, ...]) -> str:
    """Return a hash of what the model is asked, in order."""
    return hashlib.sha256("".join(row.key for row in rows).encode()).hexdigest()[:16]
