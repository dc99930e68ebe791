"""Which settings a run has: one frozen, checked dataclass a table of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from esft.recipe.check import Checks, Problem, SettingsError, as_toml, shown
from esft.recipe.prior_line import PriorSpec, parse_prior_line, repeated
from esft.tasks.words import GRADERS, REWARDS, SCORINGS


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model is tuned, where and in what precision: the [model] table."""

    id: str
    """Hub id, short name such as Qwen2.5-1.5B, local folder or .gguf file."""
    dtype: str | None = None
    """Dtype of the weights, such as "bfloat16"; None takes the checkpoint's own."""
    device: str | None = None
    """Device of the weights, such as "cuda:0"; None takes the best there is."""
    include: tuple[str, ...] | None = None
    """Globs on canonical parameter names; None tunes every floating-point parameter."""
    exclude: tuple[str, ...] | None = None
    """Globs on canonical parameter names that are left as they are; None leaves out none."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint."""

    def __post_init__(self) -> None:
        checks = Checks("model", self)
        checks.text(
            "id",
            "a hub id, a short name, a folder or a .gguf file",
            hint='give --model Qwen2.5-1.5B, or set id = "Qwen2.5-1.5B" under [model]',
        )
        checks.text("dtype", 'the name of a dtype such as "bfloat16"')
        checks.text("device", 'a device such as "cuda:0"')
        checks.globs("include")
        checks.globs("exclude")
        if checks.sound("include") and self.include == ():
            checks.refuse("include", "at least one glob", hint='set include = ["*"] for all')
        checks.switch("trust_remote_code")
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What the model is tuned on, and how answers are rewarded: the [task] table."""

    name: str
    """Name of a task, such as arc, or a .jsonl or .py file with a task of one's own."""
    grader: str | None = None
    """How answers to a .jsonl file are graded: "exact", "contains", "number", "choice" or
    "math"; None where the task knows itself."""
    train: int | None = None
    """Rows to tune on; None takes 200, or what there is."""
    holdout: int | None = None
    """Rows the model is measured on before and after, none of them tuned on; None takes 200, or
    what there is."""
    rows_per_step: int | None = None
    """Rows a step looks at, at most `train`; None takes all of them in every step."""
    scoring: str | None = None
    """"choice" (log-probability of each option), "generate" (a greedy answer) or "exact" (whether
    the greedy answer would be the reference); None is the task's own way."""
    reward: str | None = None
    """"correct" (0 or 1), "prob" (of the right option) or "logprob" (of the reference answer, a
    token); None is the task's own reward."""
    max_new_tokens: int | None = None
    """Cap on the tokens of an answer; None is the task's own."""
    data_dir: str | None = None
    """Folder of <file>.<split>.jsonl; None looks at ESFT_DATA_DIR, then at the hub."""
    batch: int | None = None
    """Sequences (prompts or options) at a time, halved where memory runs out; None starts at 64."""

    def __post_init__(self) -> None:
        checks = Checks("task", self)
        checks.text(
            "name", "the name of a task", hint='give --task arc, or set name = "arc" under [task]'
        )
        checks.whole("train", least=1, example=200)
        checks.whole("holdout", least=1, example=200)
        checks.whole("rows_per_step", least=1, example=50)
        checks.choice("scoring", SCORINGS)
        checks.choice("reward", REWARDS)
        checks.choice("grader", GRADERS)
        checks.whole("max_new_tokens", least=1, example=64)
        checks.text("data_dir", "a folder")
        checks.whole("batch", least=1, example=16)
        limited = self.rows_per_step is not None and self.train is not None
        if limited and checks.sound("rows_per_step", "train") and self.rows_per_step > self.train:
            checks.refuse(
                "rows_per_step",
                f"at most {self.train}: a step takes its rows from those of train",
                hint=f"set rows_per_step = {self.train}, or train = {self.rows_per_step}",
                others=("train",),
            )
        if self.reward == "prob" and self.scoring in ("generate", "exact"):
            checks.refuse(
                "reward",
                f'"correct" or "logprob": scoring "{self.scoring}" has no probability of an option',
                hint='set reward = "logprob", or scoring = "choice"',
                others=("scoring",),
            )
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a step explores the weights: the [search] table."""

    seed: int | None = None
    """First seed, 0 to 2**63 - 1; None draws one and records it. 0 is a seed like any other."""
    steps: int = 500
    """Updates of the weights."""
    population: int = 30
    """Members per step; even when antithetic."""
    sigma: float = 1e-3
    """Noise scale: standard deviation added to every weight."""
    alpha: float = 5e-4
    """Learning rate, with the 1/sigma of the gradient estimate folded in."""
    antithetic: bool = False
    """Try each noise with both signs."""
    shaping: str = "zscore"
    """How rewards become coefficients: "zscore" or "ranks"."""

    def __post_init__(self) -> None:
        checks = Checks("search", self)
        checks.whole("seed", least=0, most=2**63 - 1, example=42)
        checks.whole("steps", least=1, example=500)
        checks.whole("population", least=2, example=30)
        checks.number("sigma", example=1e-3)
        checks.number("alpha", example=5e-4)
        checks.switch("antithetic")
        checks.choice("shaping", ("zscore", "ranks"))
        if checks.sound("population", "antithetic") and self.antithetic and self.population % 2:
            checks.refuse(
                "population",
                "an even number: antithetic pairs the members",
                hint=f"set population = {self.population + 1}, or antithetic = false",
                others=("antithetic",),
            )
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """What pulls the weights back to the base weights: the [anchor] table."""

    awd: float = 0.0
    """Anchored weight decay: pull per unit of alpha (lambda in the paper); 0 turns it off."""
    norm: str = "l1"
    """Norm of the drift that the decay shrinks: "l1" or "l2"."""
    store: str = "cpu"
    """Where the base weights lie: "disk" (mapped from the checkpoint, no memory of their own),
    "cpu" (a copy in memory) or "device" (a copy on the weights' device)."""
    drift: str = "float16"
    """How the drift is kept: "float32", "float16" or "int8"."""
    drift_store: str | None = None
    """Where the drift lies: "cpu" or "device"; None takes the device where the store is "device",
    else the CPU."""

    def __post_init__(self) -> None:
        checks = Checks("anchor", self)
        checks.number("awd", zero=True, example=0.01)
        checks.choice("norm", ("l1", "l2"))
        checks.choice("store", ("disk", "cpu", "device"))
        checks.choice("drift", ("float32", "float16", "int8"))
        checks.choice("drift_store", ("cpu", "device"))
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What the model should not lose, and when that is measured: the [prior] table."""

    tasks: tuple[str, ...] = ()
    """Prior tasks, each name[:rows] [key=value ...] as `parse_prior_line` reads it; a name may be a
    .jsonl or .py file. None of them is tuned on."""
    every: int | None = None
    """Steps from one evaluation of prior and target tasks to the next; None evaluates before the
    first step and after the last alone."""
    rows: int = 200
    """Rows of each prior task that names no number: the first of its test split, else of its
    validation split."""

    def __post_init__(self) -> None:
        checks = Checks("prior", self)
        checks.lines("tasks", _checked_priors, example="gsm8k:100")
        checks.whole("every", least=1, example=25)
        checks.whole("rows", least=1, example=200)
        checks.finish()

    @property
    def specs(self) -> tuple[PriorSpec, ...]:
        """The prior tasks as they were read."""
        return tuple(parse_prior_line(line) for line in self.tasks)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run is recorded: the [run] table."""

    dir: str | None = None
    """Folder of the run, which must not exist yet; None makes a new one under runs/."""
    snapshot_every: int = 25
    """Steps from one snapshot of the drift to the next; resume and replay start from them."""
    stop_after_peak: int | None = None
    """Evaluations (every prior.every steps) without a new best holdout reward after which the run
    ends; None never ends it early."""

    def __post_init__(self) -> None:
        checks = Checks("run", self)
        checks.text("dir", "a folder")
        checks.whole("snapshot_every", least=1, example=25)
        checks.whole("stop_after_peak", least=1, example=3)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every setting of a run, checked; SettingsError where tables contradict each other."""

    model: Model
    task: TaskSettings
    search: Search = field(default_factory=Search)
    anchor: Anchor = field(default_factory=Anchor)
    prior: Prior = field(default_factory=Prior)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        problems = pull_problems(self.search.alpha, self.anchor.awd, self.anchor.norm)
        problems += peak_problems(self.run.stop_after_peak, self.prior.every)
        if problems:
            raise SettingsError(problems)


def _checked_priors(lines: tuple[str, ...]) -> tuple[tuple[str, ...], list[Problem]]:
    """Return the lines of prior tasks as they are recorded, and what is wrong with them."""
    specs: list[PriorSpec | None] = []
    problems: list[Problem] = []
    for line in lines:
        try:
            specs.append(parse_prior_line(line))
        except SettingsError as error:
            specs.append(None)
            problems += error.problems
    for place, before in repeated(specs):
        message = f"{shown(lines[before])} and {shown(lines[place])} are one task, expected two"
        hint = f"take {lines[place]} out: each prior task once, and names that differ in letters"
        problems.append(Problem(keys=("prior.tasks",), message=message, hint=hint))
    return tuple(str(spec) for spec in specs if spec is not None), problems


def pull_problems(alpha: float, awd: float, norm: str) -> tuple[Problem, ...]:
    """What is wrong with a decay: in norm l2, alpha * awd is the share of the drift that goes."""
    if norm != "l2" or alpha * awd <= 1:
        return ()
    limit = 1 / alpha
    # Rounded down, since an awd rounded up would be refused again.
    most = math.floor(limit) if 1 <= limit < 1e9 else limit
    message = (
        f"[anchor] awd is {as_toml(awd)}, expected at most {most} with norm l2: "
        f"alpha * awd is {alpha * awd:g}, and above 1 a step jumps past the base weights"
    )
    hint = f'set awd = {most} or lower, or norm = "l1"'
    keys = ("anchor.awd", "anchor.norm", "search.alpha")
    return (Problem(keys=keys, message=message, hint=hint),)


def peak_problems(stop_after_peak: int | None, every: int | None) -> tuple[Problem, ...]:
    """What is wrong with ending at a peak: without evaluations in between there is none to see."""
    if stop_after_peak is None or every is not None:
        return ()
    return (
        Problem(
            keys=("run.stop_after_peak", "prior.every"),
            message=f"[run] stop_after_peak is {stop_after_peak}, expected evaluations to count: "
            "[prior] every is not set",
            hint="set prior.every = 25 (the holdout rows are measured with or without prior tasks)",
        ),
    )
