"""What `esft eval` finds, as eval.json has it: written by evals, read by the report and the CLI.

Accuracies are fractions 0 to 1. None stands for what is not known, or was not a finite number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from esft.engine.largest import Largest
from esft.engine.measures import LayerDrift
from esft.errors import RunError
from esft.files import parse, read_file
from esft.rollout.kl import KlEstimate
from esft.rollout.results import RowResult, knowing_change
from esft.rollout.typed import from_json, known
from esft.runs.records import StepScore
from esft.stats.forgetting import Forgetting
from esft.stats.kept import Kept
from esft.stats.knowing import Estimate
from esft.stats.paired import compare, compare_rewards
from esft.stats.passes import PassRate
from esft.stats.verdict import MARGIN, Verdict, diagnose

EVAL_FORMAT = 2  # of eval.json; another number is another form


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A step against the base, paired on the same rows."""

    step: int
    change: float  # of the accuracy
    se: float | None
    low: float  # of the 95 % interval of `change`
    high: float
    gained: int  # rows wrong before and right now
    lost: int
    p: float  # McNemar's exact test
    reward_change: float | None = None  # these four: None where a reward says right or wrong
    reward_se: float | None = None
    reward_low: float | None = None
    reward_high: float | None = None
    gained_rows: tuple[str, ...] = ()  # ids
    lost_rows: tuple[str, ...] = ()
    knowing: dict[str, Estimate] | None = None  # changes of the measures of task know


@dataclass(frozen=True, kw_only=True)
class KlPair:
    """How far the tuned model's answers to a task's prompts are from those of the base."""

    step: int
    base_to_tuned: KlEstimate  # KL(p0||p), on continuations of the base model
    tuned_to_base: KlEstimate  # KL(p||p0), on the tuned model's own


@dataclass(frozen=True, kw_only=True)
class StepPasses:
    """How often one of k sampled answers of a step is right; errors are None where not known."""

    step: int
    rates: tuple[PassRate, ...]  # by k, rising; the base's without a change


@dataclass(frozen=True, kw_only=True)
class LargestScore:
    """A task on a step of which the largest changes alone are applied, and which share of the
    step's change against the base is left; None where that change is within chance."""

    percent: float  # of the tuned weights; 100 is the step as it is, where `scale` is 1
    scale: float = 1.0  # what these changes are multiplied by
    score: StepScore
    accuracy: Kept | None = None
    reward: Kept | None = None  # None too where a reward says right or wrong
    d_prime: Kept | None = None  # of task know


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """A task at the steps where it was evaluated, in rising order."""

    name: str
    role: Literal["target", "prior"]
    evaluations: tuple[StepScore, ...]
    comparisons: tuple[Comparison, ...] = ()  # of every step but the base
    verdict: Verdict | None = None
    kl: tuple[KlPair, ...] = ()
    passes: tuple[StepPasses, ...] = ()
    """Empty where nothing was sampled, or no answer of the task is generated."""
    largest: tuple[LargestScore, ...] = ()
    """By percent, falling, then of all changes made smaller; empty where nobody asked."""
    scoring: str | None = None
    hash: str | None = None  # of its rows
    kept: int | None = None
    """The step whose model the run kept, where it is an earlier one than the last: its peak."""

    @property
    def before(self) -> StepScore | None:
        """The evaluation of the base model."""
        return next((score for score in self.evaluations if score.step == 0), None)

    @property
    def after(self) -> StepScore | None:
        """The evaluation of the model that was kept: the last one after it, or the peak's; None
        where that is the base."""
        if self.kept == 0:
            return None
        later = [score for score in self.evaluations if score.step != 0]
        return next((score for score in later if score.step == self.kept), (later or [None])[-1])

    @property
    def change(self) -> Comparison | None:
        """What `after` is against the base."""
        step = None if self.after is None else self.after.step
        return next((change for change in self.comparisons if change.step == step), None)


@dataclass(frozen=True, kw_only=True)
class StepDrift:
    """How far the weights of a step are from the base weights; see `DriftMeasures`."""

    step: int
    norm: float  # ||D||; NaN where nothing can be compared
    forecast: float | None = None  # of ||D||, from the coefficients of the journal
    zero_share: float
    unmoved_share: float
    layers: tuple[LayerDrift, ...] = ()
    largest: tuple[Largest, ...] = ()  # by percent, falling; empty where nobody asked
    unmatched: tuple[str, ...] = ()
    """Parameters that base and model do not both have in one shape; all else counts the others."""


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """The base model scored again with another batch size: what is no difference at all."""

    text: str
    changed: dict[str, int]  # rows right once and wrong once, by task
    rows: int  # of all tasks


@dataclass(frozen=True, kw_only=True)
class FailedTask:
    """A task that could not be measured; the others were."""

    task: str
    error: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """A model that was compared with the base without a run, in the place of a step."""

    step: int  # 1 for the first
    id: str
    weights: str  # their identity
    dtype: str
    notes: tuple[str, ...] = ()  # what else sets it apart from the base


@dataclass(frozen=True, kw_only=True)
class EvalRecord:
    """All that an evaluation of steps found: the content of eval.json."""

    format: int = EVAL_FORMAT
    model: str
    run: str | None  # the folder; None for a journal or a model by itself
    base: str  # identity of the base model
    journal: str | None  # checksum of its last line
    margin: float  # a change that matters to no one is smaller than this
    load: str | None  # how the models were quantized; None where they were not
    steps: tuple[int, ...]  # in rising order; 0 is the base model
    tasks: tuple[TaskResult, ...]
    drift: tuple[StepDrift, ...] = ()
    noise_floor: NoiseFloor | None = None
    failed: tuple[FailedTask, ...] = ()
    models: tuple[ComparedModel, ...] = ()  # those of the steps after 0, where there is no run
    samples: int | None = None  # answers to each row for pass@k
    temperature: float | None = None  # at which they were drawn
    forgetting: Forgetting | None = None  # of a chain of tasks


def compared(
    task: TaskResult,
    rows: Mapping[int, Sequence[tuple[float, float]]],
    ids: Sequence[str],
    margin: float = MARGIN,
) -> TaskResult:
    """Return a task with its comparisons with the base, and the verdict on them.

    Args:
        task: as it was evaluated.
        rows: correct (0 or 1) and reward by step, the base, 0, first, and the same rows for each.
        ids: of the rows.
        margin: a change that matters to no one is smaller than this.

    Raises:
        ValueError: if the numbers of rows differ, or there is none.
    """
    if len(rows) < 2:
        return task
    (_, base), *later = rows.items()
    right, comparisons = {}, []
    for step, now in later:
        right[step] = [correct for correct, _ in now]
        paired = compare([correct for correct, _ in base], right[step])
        rewards = compare_rewards(base, now)
        comparison = Comparison(
            step=step,
            change=paired.difference,
            se=known(paired.se),
            low=paired.interval.low,
            high=paired.interval.high,
            gained=len(paired.gained),
            lost=len(paired.lost),
            p=paired.p_value,
            reward_change=None if rewards is None else rewards.difference,
            reward_se=None if rewards is None else known(rewards.se),
            reward_low=None if rewards is None else rewards.interval.low,
            reward_high=None if rewards is None else rewards.interval.high,
            gained_rows=tuple(ids[row] for row in paired.gained),
            lost_rows=tuple(ids[row] for row in paired.lost),
        )
        comparisons.append(comparison)
    until = later[-1][0] if task.kept is None else task.kept
    kept = {step: values for step, values in right.items() if step <= until}
    verdict = diagnose([correct for correct, _ in base], kept, margin) if kept else None
    return replace(task, comparisons=tuple(comparisons), verdict=verdict)


def with_knowing(task: TaskResult, rows: Mapping[int, Sequence[RowResult]]) -> TaskResult:
    """Return a task with what changed in the measures of task know, where it is that.

    `rows` are those of the steps that are compared and of the base, the same rows in one order.
    """
    comparisons = (
        replace(one, knowing=knowing_change(rows[0], rows[one.step])) for one in task.comparisons
    )
    return replace(task, comparisons=tuple(comparisons))


def read_eval(file: Path) -> EvalRecord | None:
    """Return the content of an eval.json; None where there is none.

    Raises:
        RunError: if it cannot be read, or another format of esft wrote it.
    """
    hint = "make it anew: esft eval"
    try:
        content = parse(read_file(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}", hint=hint) from error
    version = content.get("format") if isinstance(content, dict) else None
    if version != EVAL_FORMAT:
        raise RunError(f"{file} has format {version!r}, expected {EVAL_FORMAT}", hint=hint)
    try:
        return from_json(EvalRecord, content)
    except ValueError as error:
        raise RunError(f"{file} is not as esft eval writes it: {error}", hint=hint) from error
