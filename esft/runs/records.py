"""What a run folder has on record, read back without loading torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from esft.errors import RecipeError, RunError
from esft.files import parse, read_file, slug, write_whole
from esft.recipe.settings import settings_of
from esft.recipe.toml import load_recipe
from esft.rollout.results import Evaluation, RowResult
from esft.rollout.typed import from_json
from esft.runs.steps import ProbeRecord, StepMetrics, require
from esft.stats.knowing import KnowingFigures

T = TypeVar("T")

RUN_FORMAT = 4
"""Of run.json: 4 since it says which parts its base model has, and which journal is its own; 3
since a row can ask several questions; 2 since runs can be resumed."""
_THREADS = 1024  # more than any machine has cores; torch starts them all, and dies of 10**6

State = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The base model of a run."""

    id: str  # as the user named it
    source: str  # see `LoadedModel`
    base: str  # identity of its weights
    parts: dict[str, str]  # what else changes its answers, see `parts_of`
    dtype: str
    tuned_parameters: int


@dataclass(frozen=True, kw_only=True)
class RowsInfo:
    """Rows that a run works with."""

    n: int
    hash: str


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Which model lies in model/."""

    step: int
    weights: str  # their identity
    journal: str  # checksum of the line of its step
    files: dict[str, str]  # sha256 of those that are no weights
    end: tuple[int, str] | None = None
    """The last step and the checksum of its line, where the model is of an earlier one: the peak
    that ended the run, or the best within a budget that later ones were above."""

    def __post_init__(self) -> None:
        require("step", self.step, 0)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where files were looked for when the run began."""

    folder: str
    data_dir: str | None


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The content of run.json: what could change a result. ValueError if a value cannot be."""

    format: int = RUN_FORMAT
    state: State
    journal: str  # checksum of its first line; "" until that is written
    started: str
    versions: dict[str, str]
    model: ModelInfo
    device: str
    threads: int
    noise_version: int
    rows: dict[str, RowsInfo]  # by kind: train, holdout, those of prior tasks
    files: dict[str, str]  # sha256 of each file of an own task, by its name
    places: Places
    settings: dict[str, object]  # as `settings_of` gives them
    batches: tuple[tuple[int, int], ...]  # a step, and the batch size from there on
    saved: Saved | None = None  # None until a model is saved

    def __post_init__(self) -> None:
        require("threads", self.threads, 1, _THREADS)
        require("the number of batches", len(self.batches), 1)
        require("a size in batches", min(size for _, size in self.batches), 1)
        if self.state == "finished" and self.saved is None:
            raise ValueError("saved is missing, expected it once state is finished")
        try:
            labels = dict.fromkeys(self.settings, "settings")
            recipe = load_recipe(None, self.settings, labels=labels)
        except RecipeError as error:
            raise ValueError(str(error)) from error
        object.__setattr__(self, "settings", settings_of(recipe))  # also those that came since

    @property
    def peak(self) -> int | None:
        """The step whose model was kept since it was the peak, or the best within a budget; None
        where that of the last was."""
        return None if self.saved is None or self.saved.end is None else self.saved.step

    @property
    def batch(self) -> int:
        """Sequences at a time, as last found to fit."""
        return self.batches[-1][1]


@dataclass(frozen=True, kw_only=True)
class StepScore:
    """A task on the model of one step; `se` and `reward_se` are standard errors over its rows."""

    step: int  # 0 is the base model
    n: int  # rows
    accuracy: float | None
    se: float | None
    reward: float | None
    reward_se: float | None
    grader_failures: int = 0  # rows to whose answer the grader gave no reward
    acc: float | None = None  # for choice: share right without dividing by the options' lengths
    acc_norm: float | None = None
    knowing: KnowingFigures | None = None  # of task know

    def __post_init__(self) -> None:
        require("step", self.step, 0)
        require("n", self.n, 1)


@dataclass(frozen=True, kw_only=True)
class RecordedScore(StepScore):
    """A line of evals.jsonl."""

    task: str
    role: Literal["target", "prior"]
    kl: float | None = None
    """Of the model from the base model, in nats a token, on the prompts of [anchor]; on the line of
    the target, and None where nobody asks or it is not finite."""
    kl_se: float | None = None
    within: bool | None = None
    """Whether the model is within the budgets of [anchor]; None where there are none."""


@dataclass(frozen=True, kw_only=True)
class RecordedRow(RowResult):
    """A line of a file in evals/."""

    id: str
    key: str
    question: str | None = None  # as it was asked; on record with the base's answers alone
    wanted: str | None = None  # a right answer, likewise


def read_info(run: Path) -> RunInfo:
    """Return the content of run.json; RunError if it cannot be read, or is of another format."""
    file = run / "run.json"
    hint = "name the folder of a run; esft runs lists them. The journal alone rebuilds its model "
    hint += "too: esft replay FILE --out DIR"
    try:
        content = parse(read_file(file))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{file} cannot be read: {reason}", hint=hint) from error
    version = content.get("format") if isinstance(content, dict) else None
    if version != RUN_FORMAT:
        older = isinstance(version, int) and version < RUN_FORMAT
        raise RunError(
            f"{file} has format {version!r:.60}, expected {RUN_FORMAT}",
            hint="an older esft made this run; its journal still rebuilds its model: "
            f"esft replay {run / 'journal.jsonl'} --out DIR"
            if older
            else "a newer esft may have written it: pip install -U esft",
        )
    try:
        return from_json(RunInfo, content)
    except ValueError as error:
        raise RunError(f"{file} is not as esft writes it: {error}", hint=hint) from error


def read_lines(path: Path, kind: type[T]) -> list[T]:
    """Return the records of a file of JSON lines; none where it is not there.

    A last one that was cut off does not count; RunError if a whole line is not of the kind.
    """
    return [record for _, record in _lines(path, kind)]


def _lines(path: Path, kind: type[T]) -> Iterator[tuple[bytes, T]]:
    try:
        *lines, _ = read_file(path).split(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{path} cannot be read: {reason}", hint="put the file back") from error
    for at, line in enumerate(lines, start=1):
        try:
            record = from_json(kind, parse(line))
        except ValueError as error:
            raise RunError(
                f"{path}: line {at} is not as esft writes it: {error}",
                hint="take another copy of it, or move it away",
            ) from error
        yield line, record


def metrics(run: Path) -> list[StepMetrics]:
    """Return the lines of metrics.jsonl: one a step."""
    return read_lines(run / "metrics.jsonl", StepMetrics)


def read_probe(run: Path) -> ProbeRecord | None:
    """Return the content of probe.json; None where the run chose no sigma by trying."""
    file = run / "probe.json"
    try:
        return from_json(ProbeRecord, parse(read_file(file)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or error}",
            hint="take another copy of it, or move it away: nothing else needs it",
        ) from error


def scores(run: Path) -> list[RecordedScore]:
    """Return the lines of evals.jsonl: one an evaluation, in the order they were made."""
    return read_lines(run / "evals.jsonl", RecordedScore)


def best_step(scores: Sequence[RecordedScore]) -> int | None:
    """Return the first step with the target's best holdout reward, of those within all budgets;
    None where none is finite."""
    rewards = {
        score.step: score.reward
        for score in scores
        if score.role == "target" and score.reward is not None and score.within is not False
    }
    return max(rewards, key=rewards.get, default=None)


def rows_path(run: Path, score: RecordedScore) -> Path:
    """Return where the rows behind an evaluation are."""
    return run / "evals" / f"{slug(score.task)}-{score.step}.jsonl"


def evaluation(run: Path, score: RecordedScore, n: int | None = None) -> Evaluation:
    """Return an evaluation with its rows; RunError unless there are `n`, or as many as it says."""
    file, n = rows_path(run, score), score.n if n is None else n
    rows = read_lines(file, RowResult)
    if not len(rows) == score.n == n:
        raise RunError(
            f"{file} has {len(rows)} rows and evals.jsonl says {score.n}, expected {n}",
            hint="take the file back; or move evals.jsonl away, and they are evaluated again",
        )
    return Evaluation(tuple(rows))


def drop_after(run: Path, step: int) -> None:
    """Remove what is recorded of steps after `step`, and lines that were cut off half-way."""
    for file, kind in (("metrics.jsonl", StepMetrics), ("evals.jsonl", RecordedScore)):
        # A line that is there twice counts once: the last.
        kept = {
            (record.step, getattr(record, "task", None)): line + b"\n"
            for line, record in _lines(run / file, kind)
            if record.step <= step
        }
        whole = b"".join(kept.values())
        if (run / file).exists() and whole != read_file(run / file):
            write_whole(run / file, whole)
