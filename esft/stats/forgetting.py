"""The forgetting matrix of a chain of tasks: each task at the end of each stage, paired by rows.

With R[i, j] the share right of task j after stage i, and stage 0 the base model, a task that stage
j tuned on **learned** R[j, j] - R[j - 1, j], **kept** R[T, j] - R[j, j] of it until the last stage
T (below 0 is forgetting), and what stages before its own gave it is its **forward** transfer,
R[j - 1, j] - R[0, j]. Backward and forward transfer of a chain are the means of these over tasks;
rows of different tasks are independent, so errors and half widths of intervals add in squares.

Source: arXiv:1706.08840, section 2 (backward and forward transfer); Zou and Donner, 2008, Stat.
Med. 27(10) (intervals of sums).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from esft.stats.intervals import mean_and_error
from esft.stats.paired import compare


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A change of the share right, with its 95 % interval; `se` is None where it is not known."""

    change: float
    se: float | None
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share right after a stage, 0 for the base model."""

    stage: int
    accuracy: float
    se: float | None


@dataclass(frozen=True, kw_only=True)
class TaskStages:
    """A task at the end of each stage."""

    task: str
    stage: int | None  # that tunes on it, the last of several; None for a prior task
    shares: tuple[Share, ...]  # by stage, rising; those that were measured
    learned: Transfer | None = None  # by its stage
    kept: Transfer | None = None
    """From the end of its stage, or of a prior task from the base model, to the last stage."""
    forward: Transfer | None = None  # from stages before the first that tunes on it


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """What became of each task of a chain."""

    steps: tuple[int, ...]  # the last of each stage, that of the base model, 0, first
    tasks: tuple[TaskStages, ...]
    backward: Transfer | None = None  # mean of what tasks kept, without that of the last stage
    forward: Transfer | None = None  # mean over those of later stages than the first


def forgetting(
    steps: Sequence[int],
    tuned: Mapping[str, tuple[int, int]],
    right: Mapping[str, Mapping[int, Sequence[float]]],
) -> Forgetting:
    """Return the matrix of a chain, as far as it was measured.

    Args:
        steps: the last of each stage, with 0 first.
        tuned: by task the first and the last stage that tunes on it, from 1.
        right: by task and step correct, 0 or 1, of the same rows at each.
    """
    tasks = [_task(name, steps, tuned.get(name), of) for name, of in right.items()]
    tasks.sort(key=lambda task: math.inf if task.stage is None else task.stage)
    own = [task for task in tasks if task.stage is not None]
    backward = [one.kept for one in own if one.kept is not None and one.stage < len(steps) - 1]
    forward = [task.forward for task in own if task.forward is not None]
    return Forgetting(
        steps=tuple(steps), tasks=tuple(tasks), backward=_mean(backward), forward=_mean(forward)
    )


def _task(
    name: str,
    steps: Sequence[int],
    stages: tuple[int, int] | None,
    right: Mapping[int, Sequence[float]],
) -> TaskStages:
    first, last = (0, 0) if stages is None else stages

    def change(before: int, after: int) -> Transfer | None:
        if not before < after < len(steps):  # a stage that is not over yet, or none between
            return None
        ends = steps[before], steps[after]
        if any(end not in right for end in ends):
            return None
        paired = compare(*(right[end] for end in ends))
        interval = paired.interval
        return Transfer(
            change=paired.difference, se=_known(paired.se), low=interval.low, high=interval.high
        )

    shares = []
    for stage, step in enumerate(steps):
        if step in right:
            mean, se = mean_and_error([float(one) for one in right[step]])
            shares.append(Share(stage=stage, accuracy=mean, se=_known(se)))
    return TaskStages(
        task=name,
        stage=None if stages is None else last,
        shares=tuple(shares),
        learned=change(last - 1, last) if last else None,
        kept=change(last, len(steps) - 1),
        forward=change(0, first - 1) if first else None,
    )


def _mean(transfers: Sequence[Transfer]) -> Transfer | None:
    """Return the mean over tasks, whose rows are not the same; None of none."""
    if not transfers:
        return None
    count = len(transfers)
    mean = math.fsum(one.change for one in transfers) / count
    errors = [one.se for one in transfers]
    return Transfer(
        change=mean,
        se=None if None in errors else math.hypot(*errors) / count,
        low=mean - math.hypot(*(one.change - one.low for one in transfers)) / count,
        high=mean + math.hypot(*(one.high - one.change for one in transfers)) / count,
    )


def _known(error: float) -> float | None:
    return error if math.isfinite(error) else None
