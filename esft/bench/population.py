"""Members in one batch, against one after the other and against plain rollouts of the same rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from esft.bench.timing import Spread, in_turns, ratio, spread
from esft.engine import Drift, Weights
from esft.engine.batched import BatchedModel
from esft.engine.members import Member, population
from esft.engine.perturb import visiting
from esft.models.load import LoadedModel
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRow
from esft.rollout.results import RowResult
from esft.rollout.rollout import Rollout
from esft.tuning.population import groups

RANK = 1
SIGMA = 1e-6
"""So small that all members make the answers of the model as it is, as far as they can tell: the
three ways have the same to do."""

TOGETHER, ALONE, PLAIN = "one batch", "one at a time", "plain"

Way = Callable[[], list[RowResult]]


@dataclass(frozen=True, kw_only=True)
class SharedRate:
    """Rows of several members rolled out in one way and in one batch size."""

    scoring: str
    batch: int
    members: int
    rows: int  # of each member
    rows_per_second: Spread  # of all members, in one batch
    of_plain: Spread  # plain seconds over those in one batch
    speedup: Spread  # seconds one at a time over those in one batch
    same: int  # rows of all members that came out the same in one batch and one at a time


def bench_population(
    loaded: LoadedModel,
    rollouts: Sequence[tuple[Rollout, Sequence[EncodedRow]]],
    members: int,
    batches: Sequence[int],
    rounds: int,
) -> tuple[SharedRate, ...]:
    """Time members with noise of rank 1 on the same rows, in three ways.

    Plain reads the same sequences, as often as there are members, with the weights as they are.
    ValueError as `BatchedModel`.
    """
    weights = Weights(loaded.model, rank=RANK)
    drift = Drift(weights, dtype="float16")  # members are undone as in a run
    batched, tried = BatchedModel(loaded.model, weights), population(0, 1, members)
    rates = []
    for rollout, rows in rollouts:
        for batch in batches:
            plain = replace(rollout, batches=Batches(batch))
            ways = _ways(plain, rows, tried, batched, drift)
            sizes = batch, len(rows), members
            rates.append(_rate(rollout.scoring, *sizes, ways, rounds, loaded.device))
    return tuple(rates)


def _ways(
    plain: Rollout,
    rows: Sequence[EncodedRow],
    tried: Sequence[Member],
    batched: BatchedModel,
    drift: Drift,
) -> dict[str, Way]:
    shared = plain.by(batched)
    # As a run does: as many members as fill a batch, then the next.
    of_each = len(rows) * max(map(plain.sequences, rows))
    pieces = groups(tried, plain.batches.size // of_each)

    def together() -> list[RowResult]:
        results = []
        for piece in pieces:
            with batched.members([tried[at] for at in piece], SIGMA):
                sequences = [row.of(at) for at in range(len(piece)) for row in rows]
                results += shared.roll_out(sequences)
        return results

    def alone() -> list[RowResult]:
        results = []
        with visiting(drift.weights, SIGMA, drift) as visit:
            for member in tried:
                visit(member)
                results += plain.roll_out(rows)
        return results

    return {TOGETHER: together, ALONE: alone, PLAIN: lambda: plain.roll_out([*rows] * len(tried))}


def _rate(
    scoring: str,
    batch: int,
    rows: int,
    members: int,
    ways: Mapping[str, Way],
    rounds: int,
    device: torch.device,
) -> SharedRate:
    together, alone, _ = (work() for work in ways.values())  # warms up, too
    timed = {way: {scoring: work} for way, work in ways.items()}
    seconds = in_turns(timed, rounds, device)
    took = {way: of_way[scoring] for way, of_way in seconds.items()}
    return SharedRate(
        scoring=scoring,
        batch=batch,
        members=members,
        rows=rows,
        rows_per_second=spread([members * rows / taken for taken in took[TOGETHER]]),
        of_plain=ratio(took[PLAIN], took[TOGETHER]),
        speedup=ratio(took[ALONE], took[TOGETHER]),
        same=sum(map(lambda one, other: one.answers == other.answers, together, alone)),
    )
