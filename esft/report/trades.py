"""What several runs gained on their target against what their prior tasks lost."""

import math
from collections.abc import Sequence

from esft.report.numbers import RunNumbers


def trades_of(runs: Sequence[RunNumbers]) -> list[tuple[float, float, float]]:
    """Return of each of several runs the mean change of its prior tasks, that of its target and
    half the width of its 95 % interval, by tasks that all have; empty where there are none."""
    found = []
    for run in runs if len(runs) > 1 else ():
        changes = {(task.role, task.name): task.change for task in run.tasks if task.change}
        found.append(changes)
    shared = set(found[0]).intersection(*found) if found else set()
    targets = [key for key in shared if key[0] == "target"]
    priors = sorted(key for key in shared if key[0] == "prior")
    if len(targets) != 1 or not priors:
        return []
    trades = []
    for changes in found:
        target, count = changes[targets[0]], len(priors)
        prior = math.fsum(changes[key].change for key in priors) / count
        trades.append((prior, target.change, (target.high - target.low) / 2))
    return trades


def frontier(trades: Sequence[tuple[float, float, float]]) -> list[int]:
    """Return which of `trades_of` runs no other beats in both, by their means."""
    return [
        number
        for number, (prior, target, _) in enumerate(trades)
        if not any(
            other >= prior and more >= target and (other, more) != (prior, target)
            for other, more, _ in trades
        )
    ]
