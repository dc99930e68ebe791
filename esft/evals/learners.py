"""What `esft plasticity` compares: a run's model and its base, each to learn another task alike."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from esft.engine.journal_read import JournalRecord
from esft.errors import RecipeError, RunError, TaskError
from esft.evals.measure import Measurer
from esft.evals.results import KlPair
from esft.evals.steps import RunSteps
from esft.files import remove_folder, slug
from esft.models.device import FLOAT
from esft.models.find import at_commit
from esft.models.save import save_model
from esft.recipe.priors import PriorSpec
from esft.recipe.settings import Recipe, settings_of, with_settings
from esft.recipe.toml import load_recipe
from esft.rollout.batches import Batches
from esft.rollout.typed import json_text
from esft.runs.folder import RunFolder, open_run
from esft.runs.names import PLASTICITY
from esft.stats.verdict import MARGIN
from esft.tasks.registry import get_task
from esft.tasks.rows import Split
from esft.tasks.task import Task
from esft.tuning.rebuild import RebuildOptions, Source, rebuild
from esft.tuning.run_info import own_files
from esft.tuning.tasks import eval_task, rows_hash, task_and_rows
from esft.tuning.verify import OK, checked, model_as_saved
from esft.tuning.watcher import Watcher

FIRST_SEED = 1001
"""Not a seed that people type: members of the run itself are along the drift that they made."""
_EVALUATIONS = 4  # of a curve after the first, where the recipe has no fitting number of steps
_FIXED = ("model.", "prior.", "run.", "search.seed", "task.name", "task.batch")
_FREE = ("model.id", "run.dir", "task.data_dir")  # weights and rows are looked at themselves

Start = Literal["base", "tuned"]


@dataclass(frozen=True, kw_only=True)
class PlasticityRequest:
    """What is to be learned, and how."""

    task: str
    steps: int | None = None  # None takes those of the run
    seeds: int = 3
    seed: int = FIRST_SEED  # the first; the others follow
    rows: int | None = None  # holdout rows; None takes as many as the run has
    by: Literal["right", "reward"] = "right"  # the curve that the verdict is on
    margin: float = MARGIN
    kl_prompts: int = 50
    kl_tokens: int = 256
    changes: Mapping[str, object] = field(default_factory=dict)  # other settings, by "table.key"


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A run whose plasticity is asked for, and how it is to learn the other task."""

    run: RunFolder
    journal: JournalRecord
    recipe: Recipe  # on the other task, from the base model
    task: Task
    split: Split

    @property
    def source(self) -> Source:
        return Source(record=self.journal, run=self.run)

    @cached_property
    def rows(self) -> list[str]:
        """Hashes of the rows."""
        return [rows_hash(self.split.train), rows_hash(self.split.holdout)]

    def with_seed(self, seed: int) -> Recipe:
        return with_settings(self.recipe, {"search.seed": seed})

    def path(self, start: Start, seed: int) -> Path:
        """Return the folder of a run: another one where anything that it begins with differs."""
        info = self.run.info
        weights = info.model.base if start == "base" else info.saved.weights
        settings = settings_of(self.with_seed(seed)).items()
        kept = [pair for pair in settings if pair[0] not in _FREE]
        content = [weights, info.model.parts, kept, self.rows, own_files(self.recipe)]
        key = hashlib.sha256(json_text(content).encode()).hexdigest()[:8]
        stem = slug(Path(self.task.name).stem)[:80]
        return self.run.path / PLASTICITY / f"{stem}-{start}-{seed}-{key}"


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far the model of a run is from its base."""

    step: int  # whose model it is
    drift: float  # ||D||
    kl: KlPair | None  # on the first holdout rows of the other task; None where not asked for


def learner_of(path: Path, request: PlasticityRequest) -> Learner:
    """Return how a run is to learn the other task; refuse what cannot be."""
    run = open_run(path)
    journal = run.read_journal()
    own = Source(record=journal, run=run).recipe
    if run.info.saved is None:
        raise RunError(
            f"run {path} has saved no model yet, expected one to go on from",
            hint=f"esft resume {path}",
        )
    if own.model.weights != FLOAT:
        raise RunError(
            f"run {path} tuned {own.model.weights}, expected floats: its model as a folder has "
            "floats, from which codes do not come out as they were",
            hint="take a run without --weights",
        )
    asked = PriorSpec(name=request.task, source=request.changes.get("task.source"))
    if any(target.is_of(asked) for target in own.targets):
        raise RecipeError(
            f"--task is {request.task}, which run {path} was tuned on, expected another: how much "
            "is left to learn there says nothing of what can be learned",
            hint="name a task that it was not tuned on",
        )
    recipe = _recipe(run, journal, own.at_stage(-1), request)
    task, split = task_and_rows(recipe.task)
    return Learner(run=run, journal=journal, recipe=recipe, task=task, split=split)


def _recipe(
    run: RunFolder, journal: JournalRecord, own: Recipe, request: PlasticityRequest
) -> Recipe:
    """Return a run's recipe with another task, and nothing that only looks."""
    for key in request.changes:
        if key.startswith(_FIXED) and key != "model.device":
            raise RecipeError(
                f"--set {key}: it follows from the run, or is an option of its own here",
                hint="set what is learned and how: task, search and anchor",
            )
    changes: dict[str, object] = {
        **_answers(own, request),
        "task.name": request.task,
        "task.batch": run.info.batch,
        "search.seed": request.seed,
        "prior.tasks": [],
        "model.id": at_commit(own.model.id, journal.header["model"]),
        "model.dtype": run.info.model.dtype,
        "run.threads": run.info.threads,
        "run.keep_model": False,
        "run.show_answers": 0,
        **dict.fromkeys(("run.dir", "run.stop_after_peak", "run.keep_answers", "run.track")),
    }
    changes |= dict.fromkeys(("anchor.max_kl", "anchor.max_drift"))  # of what it was tuned on
    if not own.anchor.kl:
        changes |= dict.fromkeys(("anchor.kl_tasks", "anchor.kl_prompts"))
    asked = {"search.steps": request.steps, "task.holdout": request.rows}
    changes |= {key: value for key, value in asked.items() if value is not None}
    labels = {"task.name": "--task", "search.steps": "--steps", "task.holdout": "--rows"}
    if own.anchor.move == "stage":
        changes["anchor.move"] = "none"  # what is learned now has no stages
    settings = settings_of(own) | changes | dict(request.changes)
    recipe = load_recipe(None, settings, labels=labels, tasks=True)
    steps, every = recipe.search.steps, recipe.prior.every
    every = every if every is not None and every < steps else math.ceil(steps / _EVALUATIONS)
    return with_settings(recipe, {"prior.every": every})


def _answers(own: Recipe, request: PlasticityRequest) -> dict[str, object]:
    """Return how answers to the other task are scored: as the run's where that can be."""
    names = ("grader", "columns", "source", "match")
    given = [request.changes.get(f"task.{name}") for name in names]
    names = (*names, "scoring", "reward", "max_new_tokens", "data_dir")
    kept: dict[str, object] = {f"task.{name}": None for name in names}
    try:
        task = get_task(request.task, *given)
        kept["task.data_dir"] = None if task.hub is None else own.task.data_dir
        task.choose_scoring(own.task.scoring, own.task.reward)
    except TaskError:  # what is wrong with the task is said where the recipe is made
        return kept
    return kept | {"task.scoring": own.task.scoring, "task.reward": own.task.reward}


@contextmanager
def tuned_model(learner: Learner, watcher: Watcher) -> Iterator[Path]:
    """Lend the folder of a run's model: its own where it is as it was saved, else one that is
    rebuilt from the journal, and removed after."""
    run = learner.run
    if checked("model/", lambda: model_as_saved(run, watcher)).result == OK:
        yield run.model_path.absolute()
        return
    folder = (run.path / PLASTICITY / "model").absolute()
    rebuilt = rebuild(learner.source, str(run.info.saved.step), watcher)
    save_model(rebuilt.base.loaded, folder, replace=True)
    del rebuilt
    try:
        yield folder
    finally:
        remove_folder(folder)


def distance_of(learner: Learner, request: PlasticityRequest, watcher: Watcher) -> Distance:
    """Return how far a run's model is from its base; what was measured before is not again."""
    run, recipe = learner.run, learner.recipe
    step, options = run.info.saved.step, RebuildOptions(device=recipe.model.device)
    steps = RunSteps(learner.source, (0, step), watcher, options)
    measurer = Measurer(steps, watcher)
    drift = measurer.drift(step).norm
    if not request.kl_prompts:
        return Distance(step=step, drift=drift, kl=None)
    batches, holdout = Batches(run.info.batch), learner.split.holdout
    task = eval_task("prior", learner.task, recipe.task, holdout, steps.loaded, batches)
    (kl,) = measurer.kls(step, [task], request.kl_prompts, request.kl_tokens)
    return Distance(step=step, drift=drift, kl=kl)
