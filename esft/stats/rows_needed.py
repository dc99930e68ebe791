"""How many rows it takes to tell."""

import math
from collections.abc import Sequence
from statistics import NormalDist

SAME = 0.95
"""Level of the intervals by which something is called the same."""

FOUND = 0.90
"""Share of tasks without change that the rows asked for should show to have none."""


def rows_needed(changed: float, margin: float) -> int:
    """Return the rows with which a task without change is found to be level nine times in ten.

    The interval of n rows reaches 1.96 * sqrt(changed / n) to each side of a difference that
    itself errs by sqrt(changed / n); both ends lie within the margin in 90 % of all cases if
    sqrt(changed / n) is margin / (1.96 + 1.64). A change of twice the margin is then found too.

    Args:
        changed: share of rows that change between two evaluations, either way (see
            `changed_share`).
        margin: what matters to no one, > 0.

    Raises:
        ValueError: if `margin` is not above 0.
    """
    if margin <= 0:
        raise ValueError(f"margin is {margin:g}, expected above 0")
    normal = NormalDist()
    errors = normal.inv_cdf((1 + SAME) / 2) + normal.inv_cdf((1 + FOUND) / 2)
    return math.ceil(changed * (errors / margin) ** 2)


def changed_share(changes: Sequence[float]) -> float:
    """Return the share of rows that changed, two more of them added as `bootstrap_interval` does.

    For rewards, the mean squared change, which is that share where all changes are -1, 0 or 1.
    """
    return (math.fsum(change * change for change in changes) + 2) / (len(changes) + 2)
