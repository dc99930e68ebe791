"""`esft plasticity` as a library function: does a tuned model still learn as its base does?

The same recipe, seeds and members on another task, once from the base model and once from the
tuned one: ordinary runs, which lie in plasticity/ of the run's folder. Each is anchored at the
model that it starts from.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from esft.errors import RunError
from esft.evals.learners import (
    Distance,
    Learner,
    PlasticityRequest,
    Start,
    distance_of,
    learner_of,
    tuned_model,
)
from esft.files import remove_folder, write_whole
from esft.recipe.settings import Recipe, settings_of, with_settings
from esft.recipe.stages import tuned_on
from esft.rollout.typed import json_text
from esft.runs.folder import open_run
from esft.runs.names import is_run, locked
from esft.runs.records import evaluation, scores
from esft.stats.plasticity import CurvePair, PlasticityVerdict, curve_pair, judge
from esft.tuning.start import resume_tuning, run_tuning
from esft.tuning.watcher import Watcher


@dataclass(frozen=True, kw_only=True)
class SeedCurves:
    """What the two runs of a seed scored, in the mean over rows."""

    seed: int
    base_run: str
    tuned_run: str
    base_right: tuple[float, ...]
    tuned_right: tuple[float, ...]
    base_reward: tuple[float, ...]
    tuned_reward: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PlasticityRecord:
    """What was found of a run: the content of its plasticity.json."""

    run: str
    task: str
    tuned_on: str
    distance: Distance
    by: str
    margin: float
    reward: str | None  # kind of reward; None is the task's own
    right: CurvePair
    rewards: CurvePair | None  # None where a reward says right or wrong and no more
    verdict: PlasticityVerdict
    seeds: tuple[SeedCurves, ...]

    @property
    def judged(self) -> CurvePair:
        """The curves that the verdict is on."""
        return self.right if self.by == "right" or self.rewards is None else self.rewards


def run_plasticity(
    paths: Sequence[Path], request: PlasticityRequest, watcher: Watcher, stop: Callable[[], bool]
) -> list[PlasticityRecord]:
    """Tune base and tuned model of some runs on another task, and compare what they learn.

    What is there of an earlier call is taken, and runs that stopped go on. Base models that would
    learn alike do it once.

    Args:
        paths: folders of runs.
        stop: as `run_tuning`; KeyboardInterrupt then, with what is done kept.

    Raises:
        EsftError: if a run has no model, or is not one of floats; the task is its own, or has not
            the rows; or as `run_tuning`.
    """
    with ExitStack() as held:
        for path in paths:
            held.enter_context(locked(path))
        learners = [learner_of(path, request) for path in paths]
        records = []
        for learner in learners:
            seeds = range(request.seed, request.seed + request.seeds)
            made = _learn(learner, learners, seeds, watcher, stop)
            records.append(_record(learner, request, seeds, made, watcher))
            text = json_text(records[-1], indent=1) + "\n"
            write_whole(learner.run.path / "plasticity.json", text)
    return records


def _learn(
    learner: Learner,
    learners: Sequence[Learner],
    seeds: Sequence[int],
    watcher: Watcher,
    stop: Callable[[], bool],
) -> list[dict[Start, Path]]:
    """Make the two runs of each seed, as far as they are not there; return their folders."""
    made: list[dict[Start, Path]] = []
    for seed in seeds:
        base = learner.path("base", seed)
        # Of runs whose bases learn alike, the one that did it first.
        others = (one.path("base", seed) for one in learners)
        base = next((path for path in others if path.name == base.name and is_run(path)), base)
        _tune(base, learner.with_seed(seed), f"seed {seed}: the base model", watcher, stop)
        made.append({"base": base, "tuned": learner.path("tuned", seed)})
    if all(_finished(one["tuned"]) for one in made):
        return made
    with tuned_model(learner, watcher) as folder:
        for seed, one in zip(seeds, made, strict=True):
            start = with_settings(learner.with_seed(seed), {"model.id": str(folder)})
            _tune(one["tuned"], start, f"seed {seed}: {learner.run.path}", watcher, stop)
    return made


def _finished(path: Path) -> bool:
    return is_run(path) and open_run(path).info.state == "finished"


def _tune(
    path: Path, recipe: Recipe, whose: str, watcher: Watcher, stop: Callable[[], bool]
) -> None:
    """Make a run, or go on with it, unless it is finished; KeyboardInterrupt where it stops."""
    if not _finished(path):
        if stop():
            raise KeyboardInterrupt
        watcher.phase(f"{whose} learns {recipe.task.name}")
        if is_run(path):
            resume_tuning(path, _Quiet(watcher), stop)
        else:
            run_tuning(with_settings(recipe, {"run.dir": str(path)}), _Quiet(watcher), stop)
        if not _finished(path):
            raise KeyboardInterrupt
    if (snapshots := path / "drift").exists():  # each as large as a model, and never used again
        remove_folder(snapshots)


class _Quiet:
    """A watcher that is told all but the plan and the answers of each run."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watcher, name)

    def plan(self, lines: object) -> None:
        """Tell nothing."""

    def answers(self, title: str, samples: object) -> None:
        """Tell nothing."""


def _record(
    learner: Learner,
    request: PlasticityRequest,
    seeds: Sequence[int],
    made: Sequence[Mapping[Start, Path]],
    watcher: Watcher,
) -> PlasticityRecord:
    """Compare the curves of all seeds, and measure how far the run went from its base."""
    search, every = learner.recipe.search, learner.recipe.prior.every
    steps = sorted({*range(0, search.steps, every), search.steps})
    right, reward = (
        {
            start: np.array([_scores(one[start], steps, figure) for one in made])
            for start in ("base", "tuned")
        }
        for figure in ("correct", "reward")
    )
    pair, rewards = (curve_pair(steps, one["base"], one["tuned"]) for one in (right, reward))
    says_more = any((right[start] != reward[start]).any() for start in right)
    return PlasticityRecord(
        run=str(learner.run.path),
        task=learner.task.name,
        tuned_on=tuned_on(settings_of(learner.source.recipe)),
        distance=distance_of(learner, request, watcher),
        by=request.by,
        margin=request.margin,
        reward=learner.recipe.task.reward,
        right=pair,
        rewards=rewards if says_more else None,
        verdict=judge(pair if request.by == "right" else rewards, request.margin),
        seeds=tuple(
            SeedCurves(
                seed=seed,
                base_run=str(made[at]["base"]),
                tuned_run=str(made[at]["tuned"]),
                base_right=_means(right["base"][at]),
                tuned_right=_means(right["tuned"][at]),
                base_reward=_means(reward["base"][at]),
                tuned_reward=_means(reward["tuned"][at]),
            )
            for at, seed in enumerate(seeds)
        ),
    )


def _means(scores: np.ndarray) -> tuple[float, ...]:
    return tuple(scores.mean(axis=1).tolist())


def _scores(path: Path, steps: Sequence[int], figure: str) -> list[list[float]]:
    """Return what a run scored on each holdout row, (steps, rows); RunError where it overflowed.

    Where it was stopped it was evaluated too; that does not count.
    """
    of_step = {score.step: score for score in scores(path)}
    found = (evaluation(path, of_step[step]).results for step in steps)
    values = [[float(getattr(row, figure) or 0) for row in rows] for rows in found]
    for step, of_rows in zip(steps, values, strict=True):
        if not math.isfinite(math.fsum(of_rows)):
            raise RunError(
                f"{path}: the model of step {step} gives NaN on holdout rows, expected finite "
                "rewards: it overflows",
                hint="--set search.alpha= with a smaller number",
            )
    return values
