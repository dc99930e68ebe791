"""The tasks of a run: its target, and the prior tasks that show what the model should not lose."""

import hashlib
from collections.abc import Iterable, Sequence, Set
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from esft.engine.noise import derived_seed
from esft.errors import RecipeError, TaskError
from esft.models.load import LoadedModel
from esft.models.memory import free_memory
from esft.models.outline import Outline
from esft.recipe.priors import Answers, PriorSpec
from esft.recipe.settings import Recipe, TaskSettings
from esft.rollout.batches import MOST, Batches, largest_batch
from esft.rollout.encode import EncodedRow
from esft.rollout.evaluate import PART
from esft.rollout.rollout import Rollout
from esft.tasks.registry import data_folder
from esft.tasks.rows import Split, first_rows, read_split, row_source, split_rows
from esft.tasks.task import Row, RowSource, Task


@dataclass(frozen=True, kw_only=True)
class EvalTask:
    """A task ready to be evaluated on a model."""

    role: Literal["target", "prior"]  # of a chain that of its last stage alone is the target
    rollout: Rollout
    encoded: tuple[EncodedRow, ...]

    @property
    def name(self) -> str:
        return self.rollout.task.name

    @property
    def note(self) -> str | None:
        """What is to be said of it on this model: that the words of a claim are several tokens."""
        words = self.encoded[0].options if self.rollout.reward == "confidence" else ()
        if all(len(word.targets) == 1 for word in words):
            return None
        return (
            f"{self.name}: the words of a claim are several tokens here, so that p is the "
            "probability of all of them"
        )


def prior_rows(recipe: Recipe, targets: Sequence[Answers]) -> list[tuple[Task, tuple[Row, ...]]]:
    """Return the prior tasks of a recipe, in its order, each with the rows it names; RecipeError if
    a task that is tuned on is among them."""
    prior = recipe.prior
    for target in targets:
        refuse_target(prior.specs, target)
    return [rows_of(spec, prior.rows, recipe.task.data_dir) for spec in prior.specs]


def refuse_target(specs: Iterable[PriorSpec], target: Answers) -> None:
    """Raise RecipeError if the target is among the prior tasks."""
    for spec in specs:
        if spec.is_of(target):
            raise RecipeError(
                f"the prior tasks have {spec}, expected tasks of other names than the target, "
                f"{target.name}",
                hint=f"take {spec} out of the prior tasks",
            )


def rows_of(
    spec: PriorSpec, default_rows: int, data_dir: str | None
) -> tuple[Task, tuple[Row, ...]]:
    """Return a prior task with its rows, the first of its split by `first_rows`, without a look at
    other splits.

    Where `spec` names none, there are `default_rows` rows, of test, else of validation, and those
    of a task on the hub are in `data_dir`. TaskError if the task cannot be scored so, or its rows
    are not found or are too few.
    """
    task, folder, source = _opened(spec, data_dir)
    split = _split(spec, task, source)
    rows = first_rows(read_split(task, split, folder), source)
    count = default_rows if spec.rows is None else spec.rows
    if len(rows) < count:
        there = replace(spec, rows=len(rows))
        asked = " (prior.rows)" if spec.rows is None else ""
        raise TaskError(
            f"prior task {task.name} has {len(rows)} {split} rows, expected {count}{asked}",
            hint=f"name the task with the rows there are: {there}",
        )
    return task, tuple(rows[:count])


def unmeasured_rows(
    spec: PriorSpec, data_dir: str | None, measured: Set[str], wanted: int | None
) -> tuple[Task, list[Row]]:
    """Return a task with the rows of its train split, or of what it has instead, whose keys are not
    among those `measured`; TaskError if they are fewer than `wanted`, or none.
    """
    task, folder, source = _opened(spec, data_dir)
    there = source.has(task.splits.get("train", ""))
    split = "train" if there else _split(spec, task, source)
    rows = first_rows(read_split(task, split, folder), source)
    rows = [row for row in rows if row.key not in measured]
    if len(rows) < (wanted or 1):
        raise TaskError(
            f"task {task.name} has {len(rows)} {split} rows that nothing is measured on, expected "
            f"{wanted or 'some'} for the prompts of anchor.kl",
            hint="name other tasks, or a .txt file with a prompt a line, by anchor.kl_tasks"
            + (f", or set anchor.kl_prompts to {len(rows)}" if rows else ""),
        )
    return task, rows


def _opened(spec: PriorSpec, data_dir: str | None) -> tuple[Task, Path | None, RowSource]:
    """Return a prior task, the folder of its rows where they are in one, and where they are."""
    task = spec.chosen()
    task.choose_scoring(spec.scoring, spec.reward)
    # A folder named for all tasks holds the rows of those on the hub; others have their own.
    folder = None if task.hub is None else data_folder(data_dir, task)
    if spec.data_dir is not None:
        folder = Path(spec.data_dir)
    return task, folder, row_source(task, folder)


def eval_task(
    role: Literal["target", "prior"],
    task: Task,
    settings: TaskSettings | PriorSpec,
    rows: Sequence[Row],
    loaded: LoadedModel | Outline,
    batches: Batches,
) -> EvalTask:
    """Return a task ready to be evaluated on a model, scored as `settings` say."""
    rollout = Rollout(
        loaded.model,
        loaded.tokenizer,
        task,
        scoring=settings.scoring,
        reward=settings.reward,
        max_new_tokens=settings.max_new_tokens,
        batches=batches,
    )
    return EvalTask(role=role, rollout=rollout, encoded=rollout.encode(rows))


def sampling(task: EvalTask, samples: int, temperature: float, seed: int = 0) -> EvalTask:
    """Return a task scored by generation with so many sampled answers to each row: its rows once,
    then all of them again. More samples, or rows, leave the others as they are; each model is given
    the same noise."""
    numbers = iter(range(sum(len(one.prompts) for one in task.encoded)))
    asked = [[next(numbers) for _ in one.prompts] for one in task.encoded]
    seeds = [derived_seed(f"sample {sample}", seed) for sample in range(samples)]
    encoded = tuple(
        replace(one, draws=tuple((drawn, number) for number in own))
        for drawn in seeds
        for one, own in zip(task.encoded, asked, strict=True)
    )
    rollout = copy(task.rollout)  # not made anew: its model may be out of memory by now
    rollout.temperature, rollout.reward = temperature, None  # right or wrong is what counts
    return replace(task, rollout=rollout, encoded=encoded)


def find_batch(
    tasks: Sequence[EvalTask], train: Sequence[EncodedRow], per_step: int, sharing: int = 1
) -> int:
    """Return how many sequences of a run's longest rows fit into memory at once.

    No more than a step has, or a part of an evaluation: they would bring nothing.

    Args:
        tasks: the target, then the prior tasks.
        train: rows that are tuned on.
        per_step: how many of them a step sees.
        sharing: processes that share the memory; a GPU is each one's own.
    """
    device = tasks[0].rollout.model.device
    longest: dict[str, tuple[int, Rollout, list[EncodedRow]]] = {}
    for number, task in enumerate(tasks):
        rows = [*task.encoded, *(train if number == 0 else ())]
        tokens = max(one.longest(task.rollout.max_new_tokens) for one in rows)
        kind = task.rollout.scoring
        if kind not in longest or tokens > longest[kind][0]:
            longest[kind] = tokens, task.rollout, rows
    sequences = max(map(sequences_of, train))
    most = min(MOST[device.type], max(PART, per_step * sequences))
    sharing = 1 if device.type == "cuda" else sharing

    def free(device: torch.device) -> int:
        return free_memory(device) // sharing

    for _, rollout, rows in longest.values():
        most = largest_batch(partial(rollout.fill, rows), device, most, free)
    return most


def sequences_of(row: EncodedRow) -> int:
    """Return how many sequences a row puts into a batch, at most."""
    return len(row.prompts) + len(row.options) + len(row.references)


def task_and_rows(settings: TaskSettings) -> tuple[Task, Split]:
    """Return the target of a recipe, and its rows; TaskError where either is not found."""
    task = settings.chosen()
    task.choose_scoring(settings.scoring, settings.reward)
    folder = data_folder(settings.data_dir, task)
    return task, split_rows(task, settings.train, settings.holdout, folder)


def rows_hash(rows: Iterable[Row]) -> str:
    """Return a hash of what the model is asked and how its answers are graded, in order."""
    return hashlib.sha256("".join(row.content for row in rows).encode()).hexdigest()[:16]


def _split(spec: PriorSpec, task: Task, source: RowSource) -> str:
    """Return the split that is there: the one named, else test, else validation."""
    wanted = ("test", "validation") if spec.split is None else (spec.split,)
    for split in wanted:
        if source.has(task.splits.get(split, "")):
            return split
    lacks = "neither test nor validation rows" if spec.split is None else f"no {spec.split} rows"
    where = source.where(task.splits.get(wanted[0], wanted[0]))
    other = ""
    if spec.split != "train" and source.has(task.splits.get("train", "")):
        other = f"measure its train rows: {replace(spec, split='train')}, or "
    raise TaskError(
        f"prior task {task.name} has {lacks}: {where} is not there",
        hint=f"{other}take {task.name} out of the prior tasks, or {source.fix}",
    )
