"""Which settings a run has: one frozen, checked dataclass a table of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from esft.models.device import FLOAT, WEIGHTS
from esft.recipe.anchor import Anchor
from esft.recipe.check import Problem, Settings, SettingsError, broken, setting
from esft.recipe.priors import (
    Answers,
    PriorSpec,
    parse_prior_line,
    parse_prior_lines,
)
from esft.recipe.rules import MODEL_RULES, RECIPE_RULES, TASK_RULES
from esft.recipe.search import Search
from esft.recipe.stages import TABLE, Stage


@dataclass(frozen=True, kw_only=True)
class Model(Settings):
    """Which model is tuned, where and in what precision: the [model] table."""

    table = "model"
    rules = MODEL_RULES

    id: str = setting(
        "Hub id, short name (Qwen2.5-1.5B), folder, .gguf file, or embedded, a tiny model "
        "that comes with esft",
        example="Qwen2.5-1.5B",
        flag="--model",
    )
    dtype: str | None = setting(
        "Dtype of the weights: float32, float16 or bfloat16; of codes, what they compute in",
        example="bfloat16",
        unset="the checkpoint's own; what the device computes in for codes and .gguf files",
        flag="--dtype",
    )
    weights: str = setting(
        "What is tuned: floats; int8 or int4, to which the linear layers are quantized; or the "
        "codes that a quantized file has, sigma and alpha in steps of their grid with full noise",
        FLOAT,
        flag="--weights",
        choices=WEIGHTS,
    )
    device: str | None = setting(
        "Device of the weights",
        example="cuda:0",
        unset="the first there is of cuda, mps and cpu",
        flag="--device",
    )
    include: tuple[str, ...] | None = setting(
        "Globs on the names of the parameters that are tuned",
        example=("*.mlp.*",),
        unset="every floating-point parameter",
    )
    exclude: tuple[str, ...] | None = setting(
        "Globs on the names of parameters that stay as they are",
        example=("*.mlp.*",),
        unset="none is left out",
    )
    trust_remote_code: bool = setting("Run Python code that comes with the checkpoint", False)


@dataclass(frozen=True, kw_only=True)
class TaskSettings(Answers):
    """What the model is tuned on, and how answers are rewarded: the [task] table."""

    table = "task"
    rules = (*Answers.rules, *TASK_RULES)

    train: int | None = setting(
        "Rows to tune on, the first by a hash of what they ask",
        example=200,
        unset="200, or what there is",
    )
    holdout: int | None = setting(
        "Rows the model is measured on before and after, none of them tuned on",
        example=200,
        unset="200, or what there is",
    )
    rows_per_step: int | None = setting(
        "Rows a step looks at, at most those of train",
        example=50,
        unset="all train rows in every step",
    )
    batch: int | None = setting(
        "Sequences (prompts or options) at a time",
        example=16,
        unset="as many as fit into memory, at most 64 on a CPU",
    )


@dataclass(frozen=True, kw_only=True)
class Prior(Settings):
    """What the model should not lose, and when that is measured: the [prior] table."""

    table = "prior"

    tasks: tuple[str, ...] = setting(
        "What the model should not lose: a file with a task a line, or a task such as "
        "gsm8k:100; may be repeated",
        (),
        example=("gsm8k:100",),
        flag="--prior",
        read=parse_prior_lines,
    )
    every: int | None = setting(
        "Steps from one evaluation of target and prior tasks to the next",
        example=25,
        unset="before the first step and after the last",
        flag="--prior-every",
    )
    rows: int = setting(
        "Rows of each prior task that names no number: of its test split, else of its validation "
        "split, the first by a hash of what they ask",
        200,
    )

    @property
    def specs(self) -> tuple[PriorSpec, ...]:
        return tuple(map(parse_prior_line, self.tasks))


@dataclass(frozen=True, kw_only=True)
class Run(Settings):
    """Where a run is recorded: the [run] table."""

    table = "run"

    dir: str | None = setting(
        "Folder to make for the run",
        example="runs/mine",
        unset="runs/<task>-<model>-<number>",
        flag="--run-dir",
    )
    threads: int | None = setting(
        "CPU threads of torch and the kernels; on a busy machine fewer can be much faster",
        example=1,
        unset="$OMP_NUM_THREADS, else 1 for a small model, else all where a trial is faster",
        at_most=1024,
    )
    snapshot_every: int = setting(
        "Steps from one snapshot of the drift to the next; resume and replay start from them",
        25,
    )
    keep_model: bool = setting(
        "Keep the tuned model in the run folder, too; without it, esft export makes it from the "
        "base model and what else the folder has",
        True,
    )
    stop_after_peak: int | None = setting(
        "End with the model of the best holdout reward after so many evaluations (every "
        "prior.every steps) that are lower, by more than noise could make",
        example=3,
        unset="go on to the last step",
        flag="--stop-after-peak",
    )
    show_answers: int | None = setting(
        "Rows whose answers are shown: before the first step, every few steps those of the best "
        "and the worst member, and at the end",
        example=6,
        unset="3, and one every few steps",
        flag="--show-answers",
        at_least=0,
    )
    keep_answers: int | None = setting(
        "Steps from one whose answers are all kept, in answers/ of the run folder, to the next",
        example=10,
        unset="none are kept but those to holdout rows and prior tasks",
    )
    track: str | None = setting(
        "Show the run by a tracker too, each a package of its own",
        unset="by none",
        flag="--track",
        choices=("tensorboard", "wandb", "trackio"),
    )


TABLES = {table.table: table for table in (Model, TaskSettings, Search, Anchor, Prior, Run)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every setting of a run; SettingsError where tables contradict each other."""

    model: Model
    task: TaskSettings
    search: Search = field(default_factory=Search)
    anchor: Anchor = field(default_factory=Anchor)
    prior: Prior = field(default_factory=Prior)
    run: Run = field(default_factory=Run)
    stages: tuple[Stage, ...] = ()
    """Of a chain, whose steps are those of [search] then; none of another run."""

    def __post_init__(self) -> None:
        problems = list(broken(RECIPE_RULES, settings_of(self), ()))
        problems += [] if problems else _wrong_stages(self)
        if problems:
            raise SettingsError(problems)

    def at_stage(self, number: int) -> Recipe:
        """Return the recipe of a stage, counted from 0, by itself; this one where it has none."""
        if not self.stages:
            return self
        stage = self.stages[number]
        changes = {**stage.changes, "search.steps": stage.steps}
        return with_settings(replace(self, stages=()), changes)

    @property
    def called(self) -> str:
        """What its run is called by: its task, or "chain"."""
        return "chain" if self.stages else self.task.name

    @property
    def targets(self) -> tuple[TaskSettings, ...]:
        """What it tunes on, that of the last stage last; a task that comes again once."""
        tasks = [self.at_stage(number).task for number in range(max(1, len(self.stages)))]
        by_name = {task.kept_as: task for task in reversed(tasks)}
        return tuple(reversed(by_name.values()))


def _wrong_stages(recipe: Recipe) -> list[Problem]:
    """Return what is wrong with the stages of a chain."""
    problems, tasks = [], {}
    for number in range(len(recipe.stages)):
        try:
            task, anchor = (at := recipe.at_stage(number)).task, at.anchor
        except SettingsError as error:
            problems += [
                problem._replace(keys=(TABLE,), text=f"[[{TABLE}]] {number + 1}: {problem.text}")
                for problem in error.problems
            ]
            continue
        if anchor.budgeted:
            text = f"[[{TABLE}]] {number + 1}: max_kl or max_drift is set, expected none of a chain"
            problems.append(Problem(("anchor.max_kl", "anchor.max_drift"), text, "leave it out"))
        own = replace(task, rows_per_step=None)
        first = tasks.setdefault(task.kept_as, own)
        if own != first:
            text = f"[[{TABLE}]] {number + 1}: {task.name} has other rows or grading than before"
            fix = "only rows_per_step may be another where a task comes again"
            problems.append(Problem((TABLE,), f"{text}, expected the same", fix))
    if recipe.stages and recipe.search.steps != (whole := sum(s.steps for s in recipe.stages)):
        text = f"[search] steps is {recipe.search.steps}, expected {whole}, those of its stages"
        problems.append(Problem(("search.steps",), text, "leave it out"))
    if recipe.stages and recipe.run.stop_after_peak is not None:
        text = f"[run] stop_after_peak is {recipe.run.stop_after_peak}, expected none of a chain"
        problems.append(Problem(("run.stop_after_peak",), text, "leave it out"))
    return problems


def settings_of(recipe: Recipe) -> dict[str, object]:
    """Return every setting of a recipe as "table.key" to its value, lists for tuples; of a chain
    "stage" too, what its stages say."""
    stages = [stage.settings for stage in recipe.stages]
    return {TABLE: stages} | _of_tables(recipe) if stages else _of_tables(recipe)


def _of_tables(recipe: Recipe) -> dict[str, object]:
    return {
        f"{table}.{name}": list(value) if isinstance(value, tuple) else value
        for table, kind in TABLES.items()
        for name in kind.declared()
        for value in [getattr(getattr(recipe, table), name)]
    }


def with_settings(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """Return a recipe with other values of some settings, "table.key" to value."""
    tables: dict[str, dict[str, object]] = {}
    for key, value in changes.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, {})[name] = value
    return replace(
        recipe, **{table: replace(getattr(recipe, table), **new) for table, new in tables.items()}
    )
