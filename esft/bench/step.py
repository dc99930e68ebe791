"""Where the time of a real step goes, and how much of it a step could not do without."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from esft.bench.timing import Machine, Spread, in_turns, machine, ratio, spread
from esft.recipe.settings import Anchor, Model, Prior, Recipe, Run, Search, TaskSettings
from esft.recipe.toml import load_recipe
from esft.runs.steps import StepMetrics
from esft.tuning.clock import Left
from esft.tuning.population import Population
from esft.tuning.session import Session
from esft.tuning.start import run_tuning
from esft.tuning.watcher import Watcher

_PLAIN = 4  # of so many plain rollouts, which are all alike, one is timed


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Which step is timed: one of quickstart, or of a model that answers questions."""

    model: str = "embedded"
    dtype: str | None = None
    device: str | None = None
    members: int | None = None  # None: quickstart's 64, else 30
    rounds: int = 3


@dataclass(frozen=True, kw_only=True)
class StepBench:
    """What `bench_step` measured."""

    machine: Machine
    model: str
    device: str
    dtype: str
    task: str
    scoring: str
    members: int
    rows: int
    max_new_tokens: int
    batch: int
    rounds: int
    kernels: str
    seconds: Spread
    parts: dict[str, Spread]  # seconds of each part, as `StepTimes` names them
    shares: dict[str, float]  # of the step, each a median
    inference: Spread
    """Seconds that rolling out the same rows takes, as often as there are members, when nothing
    perturbs the weights."""
    inference_share: float
    peak_memory: int


def bench_step(settings: StepSettings) -> StepBench:
    """Run a few steps as `esft tune` does, in a folder that does not stay, and time all but the
    first, which warms up. EsftError if there is no such model."""
    steps = _Steps()

    def population(session: Session) -> Population:
        steps.session = session
        return Population(session)

    with tempfile.TemporaryDirectory(prefix="esft-bench-") as folder:
        recipe = replace(_recipe(settings), run=Run(dir=str(Path(folder) / "run")))
        run_tuning(recipe, steps, lambda: False, population)
    session, timed = steps.session, steps.made[1:]
    seconds, plain = [step.seconds for step in timed], steps.plain[1:]
    parts = {name: [step.times.parts[name] for step in timed] for name in timed[0].times.parts}
    return StepBench(
        machine=machine(),
        model=session.base.loaded.id,
        device=str(session.base.loaded.device),
        dtype=str(session.base.loaded.dtype).removeprefix("torch."),
        task=session.rollout.task.name,
        scoring=session.rollout.scoring,
        members=recipe.search.population,
        rows=len(session.train),
        max_new_tokens=session.rollout.max_new_tokens,
        batch=session.rollout.batches.size,
        rounds=settings.rounds,
        kernels=session.base.weights.kernels.name,
        seconds=spread(seconds),
        parts={name: spread(values) for name, values in parts.items()},
        shares={name: ratio(values, seconds).median for name, values in parts.items()},
        inference=spread(plain),
        inference_share=ratio(plain, seconds).median,
        peak_memory=timed[-1].peak_memory,
    )


class _Steps(Watcher):
    """Keeps what steps did, shows nothing, and times the plain rollouts of each right behind it."""

    session: Session

    def __init__(self) -> None:
        self.made: list[StepMetrics] = []
        self.plain: list[float] = []

    def step(self, metrics: StepMetrics, left: Left | None) -> None:
        self.made.append(metrics)
        rollout, members = self.session.rollout, self.session.recipe.search.population
        timed = -(-members // _PLAIN)
        work = {"": {"": lambda: [rollout.roll_out(self.session.train) for _ in range(timed)]}}
        (seconds,) = in_turns(work, 1, self.session.base.loaded.device)[""][""]
        self.plain.append(seconds * members / timed)


def _recipe(settings: StepSettings) -> Recipe:
    """Return what is run: the same rows in every step, and as little around the steps as can be."""
    model = Model(id=settings.model, dtype=settings.dtype, device=settings.device)
    if settings.model == "embedded":
        recipe = load_recipe("quickstart", {})
        rows = {"train": recipe.task.rows_per_step, "rows_per_step": None, "holdout": 1}
        recipe = replace(recipe, task=replace(recipe.task, **rows), prior=Prior())
    else:
        task = TaskSettings(name="conciseness", train=32, holdout=1, max_new_tokens=64)
        recipe = Recipe(model=model, task=task, search=Search(seed=1), anchor=Anchor(awd=0.01))
    size = recipe.search.population if settings.members is None else settings.members
    search = replace(recipe.search, steps=settings.rounds + 1, population=size)
    return replace(recipe, model=model, search=search)
