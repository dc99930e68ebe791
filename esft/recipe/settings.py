"""Which settings a run has: one frozen, checked dataclass a table of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from esft.models.device import FLOAT, WEIGHTS
from esft.recipe.check import Settings, SettingsError, broken, setting
from esft.recipe.priors import (
    Answers,
    PriorSpec,
    kl_source,
    parse_kl_tasks,
    parse_prior_line,
    parse_prior_lines,
)
from esft.recipe.rules import MODEL_RULES, RECIPE_RULES, SEARCH_RULES, TASK_RULES


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


CODED_SCALES = {"int8": (0.001, 5.0), "int4": (0.01, 2.5), "codes": (0.01, 2.5)}
"""Sigma and alpha by [model] weights, in steps of the grid, where nothing else is said and noise is
full: those published for 50 members, arXiv:2602.03120. Those of floats are in other units."""

SIGMA_END, ALPHA_END = 1.0, 0.1
"""What sigma and alpha are annealed to where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class Search(Settings):
    """How a step explores the weights: the [search] table."""

    table = "search"
    rules = SEARCH_RULES

    # Larger ones are not exact in floating point, which the forecast is made of.
    steps: int = setting("Updates of the weights", 500, flag="--steps", at_most=10**15)
    population: int = setting(
        "Members per step, an even number if antithetic", 30, flag="--population", at_least=2
    )
    sigma: float = setting(
        "Noise scale, standard deviation added to every weight; of codes with full noise 0.01 "
        "steps of their grid, 0.001 of int8",
        1e-3,
        flag="--sigma",
        above=0,
    )
    alpha: float = setting(
        "Learning rate, with the 1/sigma of the gradient estimate folded in; of codes with full "
        "noise 2.5 steps, 5 of int8",
        5e-4,
        flag="--alpha",
        above=0,
    )
    seed: int | None = setting(
        "Seed of the run, 0 or more",
        example=42,
        unset="drawn and recorded",
        flag="--seed",
        at_least=0,
        at_most=2**63 - 1,
    )
    anneal: str | None = setting(
        "How sigma and alpha fall from the first step to the last",
        example="cosine",
        unset="they stay as they are",
        flag="--anneal",
        choices=("cosine", "linear"),
    )
    sigma_end: float | None = setting(
        "Sigma of the last step, a fraction of that of the first",
        example=0.5,
        unset=f"{SIGMA_END:g} with anneal",
        above=0,
        at_most=1,
    )
    alpha_end: float | None = setting(
        "Alpha of the last step, a fraction of that of the first",
        example=0.1,
        unset=f"{ALPHA_END:g} with anneal",
        above=0,
        at_most=1,
    )
    antithetic: bool = setting("Try each noise with both signs", False)
    screen_rows: bool = setting(
        "Leave rows out on which the members of three steps did not differ, and look at them again "
        "every fifth turn; rewards of a step are of the rows it sees",
        False,
    )
    shaping: str = setting("How rewards become coefficients", "zscore", choices=("zscore", "ranks"))
    noise: str = setting(
        "Noise of a matrix: a number of its own for each weight, or products of two vectors, which "
        "leave norms alone",
        "full",
        flag="--noise",
        choices=("full", "lowrank"),
    )
    rank: int = setting("Rank of the noise of a matrix", 1, example=4, at_least=1, at_most=64)

    @property
    def low_rank(self) -> int | None:
        """Rank of the noise of matrices; None where it is full."""
        return self.rank if self.noise == "lowrank" else None

    def at(self, step: int) -> tuple[float, float]:
        """Return sigma and alpha of a step, counted from 1."""
        passed = min(1, (step - 1) / max(1, self.steps - 1))  # 1 in the last step
        match self.anneal:
            case None:
                return self.sigma, self.alpha
            case "cosine":
                passed = (1 - math.cos(math.pi * passed)) / 2
        sigma_end = SIGMA_END if self.sigma_end is None else self.sigma_end
        alpha_end = ALPHA_END if self.alpha_end is None else self.alpha_end
        return (
            self.sigma * (1 - passed * (1 - sigma_end)),
            self.alpha * (1 - passed * (1 - alpha_end)),
        )


@dataclass(frozen=True, kw_only=True)
class Anchor(Settings):
    """What pulls the weights back to the base weights: the [anchor] table."""

    table = "anchor"

    awd: float = setting(
        "Anchored weight decay towards the base weights, per unit of alpha; 0 is off",
        0.0,
        example=0.01,
        flag="--awd",
        at_least=0,
    )
    norm: str = setting(
        "Norm of the drift that the decay shrinks, l1 by a constant pull, l2 by a share",
        "l1",
        flag="--awd-norm",
        choices=("l1", "l2"),
    )
    store: str = setting(
        "Where the base weights lie: mapped from the checkpoint, without memory of their own, "
        "or copied; auto takes the fastest that fits beside weights and batch",
        "auto",
        choices=("auto", "disk", "cpu", "device"),
    )
    drift: str = setting(
        "How the drift is kept; replay keeps none of codes, and makes 50 steps again in each",
        "float16",
        choices=("float32", "float16", "int8", "replay"),
    )
    drift_store: str | None = setting(
        "Where the drift lies",
        unset="where the base weights lie, the CPU where they are on disk",
        choices=("cpu", "device"),
    )
    kl: float = setting(
        "What a nat of KL divergence from the base model, a token of its own continuations of "
        "some prompts, takes from a member's reward; 0 is off",
        0.0,
        example=1.0,
        flag="--anchor-kl",
        at_least=0,
    )
    kl_tasks: tuple[str, ...] | None = setting(
        "Where these prompts come from: tasks, of whose train rows those are taken that nothing is "
        "measured on, or a .txt file with a prompt a line",
        example=("gsm8k", "prompts.txt"),
        unset="the prior tasks",
        read=parse_kl_tasks,
    )
    kl_prompts: int | None = setting(
        "Prompts of each of them", example=16, unset="16, or what there is"
    )
    kl_per_step: int | None = setting(
        "Prompts that a step looks at, in turn",
        example=12,
        unset="as many as make 15 % of the tokens of a member's rows",
    )
    kl_tokens: int = setting("Tokens of a continuation, at most", 16)

    @property
    def kl_sources(self) -> tuple[PriorSpec | Path, ...]:
        """Tasks and files that prompts come from; none stand for the prior tasks."""
        return tuple(map(kl_source, self.kl_tasks or ()))


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

    def __post_init__(self) -> None:
        problems = list(broken(RECIPE_RULES, settings_of(self), ()))
        if problems:
            raise SettingsError(problems)


def settings_of(recipe: Recipe) -> dict[str, object]:
    """Return every setting of a recipe as "table.key" to its value, lists for tuples."""
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
