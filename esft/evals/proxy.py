"""`esft plasticity --proxy`: what members alone tell of whether a tuned model can still learn.

The same members and rows at both models, and no step: how many improve, by how much, and how good
the best is expected to be. A step follows the members that improve, so where they are fewer it has
less to follow; how far many steps lead, this does not tell. Hence a proxy.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from esft.errors import RunError
from esft.evals.learners import (
    Distance,
    Learner,
    PlasticityRequest,
    distance_of,
    learner_of,
    tuned_model,
)
from esft.files import write_whole
from esft.recipe.settings import settings_of, with_settings
from esft.recipe.stages import tuned_on
from esft.rollout.typed import json_text
from esft.runs.names import locked
from esft.stats.intervals import bootstrap_interval, student_interval
from esft.stats.plasticity import Estimate
from esft.stats.signal import EQUAL, expected_best
from esft.tuning.probe import Probed, run_probe
from esft.tuning.watcher import Watcher

MEMBERS = 30


@dataclass(frozen=True, kw_only=True)
class MemberPair:
    """What the members of a seed came to at both models: base, then tuned."""

    seed: int
    improving: tuple[float, float]  # share above the model that they are members of
    change: tuple[float, float]  # of the reward, in the mean
    best: tuple[float, float]  # expected change of the best of `MEMBERS`
    members: int  # those with a finite reward at both


@dataclass(frozen=True, kw_only=True)
class ProxyRecord:
    """What was found of a run: the content of its plasticity-proxy.json.

    Differences are tuned minus base, with intervals at 95 %: over seeds, each with members and rows
    of its own (Student's t); of one seed over its members alone, and none of `best`.
    """

    proxy: bool = True
    run: str
    task: str
    tuned_on: str
    distance: Distance
    sigma: float
    rows: int
    reward: str | None  # kind of reward; None is the task's own
    improving: Estimate
    change: Estimate
    best: Estimate | None
    seeds: tuple[MemberPair, ...]


def run_proxy(
    paths: Sequence[Path], request: PlasticityRequest, watcher: Watcher
) -> list[ProxyRecord]:
    """Try members on another task at base and tuned model of some runs; `request.rows` are those
    that each member sees. EsftError as `run_plasticity`, and as `run_probe`."""
    with ExitStack() as held:
        for path in paths:
            held.enter_context(locked(path))
        learners = [learner_of(path, replace(request, rows=None)) for path in paths]
        records = []
        for learner in learners:
            records.append(_record(learner, request, watcher))
            text = json_text(records[-1], indent=1) + "\n"
            write_whole(learner.run.path / "plasticity-proxy.json", text)
    return records


def _record(learner: Learner, request: PlasticityRequest, watcher: Watcher) -> ProxyRecord:
    seeds = range(request.seed, request.seed + request.seeds)
    with tuned_model(learner, watcher) as folder:
        probed = [_probed(learner, request, seed, folder, watcher) for seed in seeds]
    changes = [_changes(learner, *both) for both in probed]
    pairs = tuple(_pair(seed, *both) for seed, both in zip(seeds, changes, strict=True))
    alone = changes[0] if len(pairs) == 1 else None
    better = None if alone is None else alone > EQUAL
    return ProxyRecord(
        run=str(learner.run.path),
        task=learner.task.name,
        tuned_on=tuned_on(settings_of(learner.source.recipe)),
        distance=distance_of(learner, request, watcher),
        sigma=learner.recipe.search.sigma,
        rows=probed[0][0].rows,
        reward=learner.recipe.task.reward,
        improving=_difference([pair.improving for pair in pairs], better),
        change=_difference([pair.change for pair in pairs], alone),
        best=None if alone is not None else _difference([pair.best for pair in pairs], None),
        seeds=pairs,
    )


def _probed(
    learner: Learner, request: PlasticityRequest, seed: int, folder: Path, watcher: Watcher
) -> tuple[Probed, Probed]:
    """Try a seed's members at the base and at the tuned model."""
    base = learner.with_seed(seed)
    tuned = with_settings(base, {"model.id": str(folder)})
    sigmas = [base.search.sigma]
    return tuple(
        run_probe(recipe, watcher, sigmas=sigmas, members=MEMBERS, rows=request.rows)
        for recipe in (base, tuned)
    )


def _changes(learner: Learner, base: Probed, tuned: Probed) -> np.ndarray:
    """Return the changes of the members that are finite at both, (2, members)."""
    both = np.array([one.sigmas[0].changes for one in (base, tuned)])
    both = both[:, np.isfinite(both).all(axis=0)]
    if both.shape[1] < 2:
        sigma = learner.recipe.search.sigma
        raise RunError(
            f"members of {learner.run.path} overflow at sigma {sigma:g}, expected at least 2 with "
            "finite rewards at both models",
            hint=f"--set search.sigma={sigma / 3:.1g}",
        )
    return both


def _pair(seed: int, base: np.ndarray, tuned: np.ndarray) -> MemberPair:
    members = len(base)
    size = min(MEMBERS, members)
    return MemberPair(
        seed=seed,
        improving=tuple(float((one > EQUAL).mean()) for one in (base, tuned)),
        change=tuple(math.fsum(one) / members for one in (base, tuned)),
        best=tuple(expected_best(one, size) for one in (base, tuned)),
        members=members,
    )


def _difference(pairs: Sequence[tuple[float, float]], of_members: np.ndarray | None) -> Estimate:
    """Return tuned minus base in the mean of the seeds; of one seed with the interval over its
    members, (2, members)."""
    apart = [tuned - base for base, tuned in pairs]
    if of_members is None:
        interval = student_interval(apart)
    else:
        base, tuned = of_members.astype(float)
        interval = bootstrap_interval(tuned - base)
    return Estimate(mean=math.fsum(apart) / len(apart), interval=interval)
