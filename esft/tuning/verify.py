"""Whether a run still rebuilds the model that it claims."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from esft.engine.journal_read import JournalRecord, read_journal, replay
from esft.engine.weights import identity
from esft.errors import EsftError, JournalError, RunError
from esft.models.load import LoadedModel, load_model
from esft.models.save import small_files
from esft.runs.folder import RunFolder, counted, open_run
from esft.runs.names import find_run, is_locked
from esft.runs.records import Saved, evaluation, metrics, scores
from esft.runs.snapshots import Snapshots
from esft.tuning.rebuild import RebuildOptions, Source, rebuild
from esft.tuning.watcher import Watcher

OK, FAILED, NOT_APPLICABLE = "ok", "failed", "not applicable"

_DAMAGE = (EsftError, OSError, LookupError, TypeError, ValueError, AttributeError)
"""What reading a damaged file can raise: a value may be missing, or of another kind."""

_COPY = "take another copy of it"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question to a run, answered."""

    what: str  # the file or folder that was checked, or "rebuild"
    result: str  # OK, FAILED or NOT_APPLICABLE
    text: str
    hint: str | None = None


class _DoesNotApplyError(Exception):
    """There is nothing to check; the text says why."""


def find_target(name: str | None) -> Path:
    """Return the folder of a run, or journal's file, that RUN means; RunError if it is in use."""
    if name is not None and Path(name).is_file():
        return Path(name)
    path = find_run(name)
    if is_locked(path):
        raise RunError(
            f"run {path} is in use: another process is writing its files",
            hint="verify it when that ends, or stop it with Ctrl-C in its terminal",
        )
    return path


def checks_of(path: Path, watcher: Watcher, options: RebuildOptions) -> Iterator[Check]:
    """Yield every check of a run folder or of a journal's file, as they finish.

    One that needs what an earlier one found damaged is not applicable. RunError if the run.json of
    a run folder cannot be read.
    """
    run = None if path.is_file() else open_run(path)
    checks = _Checks(path if run is None else run.journal_path, run, watcher, options)
    steps = {"journal" if run is None else run.journal_path.name: checks.journal}
    if run is not None:
        steps |= {"metrics.jsonl": checks.metrics, "evals.jsonl": checks.evaluations}
        steps |= {"drift/": checks.snapshots, "model/": lambda: model_as_saved(run, watcher)}
    for what, check in (steps | {"rebuild": checks.rebuild}).items():
        yield checked(what, check)


def checked(what: str, check: Callable[[], str]) -> Check:
    """Return what a check came to; it returns what is good, and raises what is not."""
    try:
        result, text, hint = OK, check(), None
    except _DoesNotApplyError as why:
        result, text, hint = NOT_APPLICABLE, str(why), None
    except EsftError as error:
        result, text, hint = FAILED, str(error), error.hint
    except _DAMAGE as error:
        result, text, hint = FAILED, f"{type(error).__name__}: {error}", _COPY
    return Check(what=what, result=result, text=text, hint=hint)


def model_as_saved(run: RunFolder, watcher: Watcher) -> str:
    """Load model/ of a run and say that it is what the run saved; see `checked`."""
    load_saved(run, watcher)
    return f"has the weights and the other files of step {run.info.saved.step}, as recorded"


def load_saved(run: RunFolder, watcher: Watcher, copy: Path | None = None) -> LoadedModel:
    """Load model/ of a run, or a copy of it, on the CPU; EsftError if it is not what was saved."""
    saved, path = run.info.saved, run.model_path if copy is None else copy
    if run.kept_model is None:
        raise _DoesNotApplyError("run.keep_model is false: esft export makes it")
    if not saved:
        raise _DoesNotApplyError("the run has not saved a model yet")
    hint = f"esft replay {run.path} --at {saved.step} --out DIR writes it again"
    if not path.is_dir():
        raise RunError(f"{path} is not there", hint=hint)
    files, was = small_files(path), saved.files
    if other := [name for name in {**was, **files} if files.get(name) != was.get(name)]:
        raise RunError(
            f"{path} is not as it was saved: {', '.join(other)} differ, or are not there",
            hint=hint,
        )
    watcher.phase(f"loading {path}" if copy is None else "loading the copy, to compare it")
    loaded = load_model(
        str(path.absolute()),
        dtype=run.info.model.dtype,
        device="cpu",  # the weights are read and no more
        trust_remote_code=run.info.settings["model.trust_remote_code"],
    )
    weights = identity(loaded.model)
    if weights != saved.weights:
        raise RunError(
            f"{path} has weights of sha256 {weights[:16]}..., expected "
            f"{saved.weights[:16]}..., recorded at step {saved.step}",
            hint=hint,
        )
    return loaded


@dataclass
class _Checks:
    """The checks of a journal, in its run folder or alone; later ones use what is good."""

    path: Path  # of the journal
    run: RunFolder | None
    watcher: Watcher
    options: RebuildOptions
    record: JournalRecord | None = None

    @property
    def saved(self) -> Saved | None:
        return None if self.run is None else self.run.info.saved

    def journal(self) -> str:
        record = read_journal(self.path) if self.run is None else self.run.read_journal()
        if self.run is None and record.torn:
            raise JournalError(f"{record.path} ends in the middle of a line", hint=_COPY)
        self.record = record
        cut = "; its last line was cut off, esft resume makes that step again" * record.torn
        backs = f", {len(record.backs)} times taken back" * bool(record.backs)
        return f"{counted(record.last)}{backs}, line by line as written{cut}"

    def metrics(self) -> str:
        return f"{counted(len(metrics(self.run.path)))}, each line as esft writes it"

    def evaluations(self) -> str:
        recorded = scores(self.run.path)
        rows = sum(evaluation(self.run.path, score).n for score in recorded)
        return f"{len(recorded)} evaluations with their {rows} rows, as esft writes them"

    def snapshots(self) -> str:
        record, snapshots, bad = self._good_record(), Snapshots(self.run.path / "drift"), []
        steps = sorted(snapshots.steps())
        for step in steps:
            try:
                if not 1 <= step <= record.last:
                    file = snapshots.path(step)
                    raise RunError(f"{file} is of step {step}, expected 1 to {record.last}")
                snapshots.read(step, record.checksums[step])
            except _DAMAGE as error:
                bad.append(str(error))
        if bad:
            raise RunError("; ".join(bad), hint="remove it: the journal makes its steps again")
        if not steps:
            raise _DoesNotApplyError("there is no snapshot")
        return f"good and of this journal: step {', '.join(map(str, steps))}"

    def rebuild(self) -> str:
        record, saved = self._good_record(), self.saved
        step = saved.step if saved else record.last
        source = Source(record=record, run=self.run)
        rebuilt = rebuild(source, str(step), self.watcher, self.options)
        if not rebuilt.proven:
            nothing = "end line" if self.run is None else "saved model"
            return f"goes through to step {step}; there is no {nothing} to compare it with"
        replay(rebuilt.base.drift, record, record.last)
        on = f"; goes through to step {record.last}" if step < record.last else ""
        return f"makes the weights of step {step}, as recorded{on}"

    def _good_record(self) -> JournalRecord:
        if self.record is None:
            raise _DoesNotApplyError("the journal is damaged")
        return self.record
