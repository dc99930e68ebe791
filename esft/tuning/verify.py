"""Whether a run folder is whole and rebuilds the model that it claims."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from esft.engine.journal_read import JournalRecord, read_journal, replay
from esft.engine.weights import identity
from esft.errors import EsftError, JournalError, RunError
from esft.models.load import load_model
from esft.recipe.toml import load_recipe
from esft.runs.folder import RunFolder, open_run
from esft.runs.names import find_run, is_locked
from esft.tuning.rebuild import Rebuilt, Source, find_source, rebuild
from esft.tuning.run_checks import (
    COPY,
    DAMAGE,
    check_evaluations,
    check_info,
    check_journal,
    check_metrics,
    check_recipe,
    check_snapshots,
    counted,
)
from esft.tuning.watcher import Watcher

OK, FAILED, NOT_APPLICABLE = "ok", "failed", "not applicable"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question to a run, answered."""

    what: str
    """The file or folder that was checked, or "rebuild"."""
    result: str
    """OK, FAILED or NOT_APPLICABLE."""
    text: str
    """What was found; where it failed, what was expected too."""
    hint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Means:
    """How the model is rebuilt."""

    watching: Callable[[], AbstractContextManager[Watcher]]
    """Opened around what takes a while."""
    quick: bool = False
    """Start from the nearest snapshot instead of the base model."""
    model: str | None = None
    """The base model; None takes that of the run."""
    device: str | None = None
    """Where to rebuild; None takes the run's, or the best there is."""


class _DoesNotApplyError(Exception):
    """There is nothing to check; the text says why."""


def find_target(name: str | None) -> Path:
    """Return what RUN means: the folder of a run that no process works on, or a journal's file.

    Raises:
        RunError: if there is none, or its files are being written.
    """
    if name is not None and Path(name).is_file():
        return Path(name)
    path = find_run(name)
    if is_locked(path):
        raise RunError(
            f"run {path} is in use: another process is writing its files",
            hint="verify it when that ends, or stop it with Ctrl-C in its terminal",
        )
    return path


def checks_of(path: Path, means: Means) -> Iterator[Check]:
    """Yield every check of a run folder or of a journal's file, as they finish.

    One that needs what an earlier one found damaged is not applicable.
    """
    checks = _JournalChecks(path, means) if path.is_file() else _FolderChecks(path, means)
    for what, check in checks.each():
        yield _answered(what, check)


def _answered(what: str, check: Callable[[], str]) -> Check:
    try:
        return Check(what=what, result=OK, text=check())
    except _DoesNotApplyError as why:
        return Check(what=what, result=NOT_APPLICABLE, text=str(why))
    except EsftError as error:
        return Check(what=what, result=FAILED, text=str(error), hint=error.hint)
    except DAMAGE as error:
        return Check(what=what, result=FAILED, text=f"{type(error).__name__}: {error}", hint=COPY)


class _FolderChecks:
    """The checks of a run folder; later ones use what earlier ones found good."""

    def __init__(self, path: Path, means: Means) -> None:
        self._run = RunFolder(path, {})
        self._means = means
        self._record: JournalRecord | None = None
        self._recipe_loads = False

    def each(self) -> Iterator[tuple[str, Callable[[], str]]]:
        yield "run.json", self._check_info
        yield "recipe.toml", self._check_recipe
        yield "journal.jsonl", self._check_journal
        yield "metrics.jsonl", lambda: check_metrics(self._run, self._last)
        yield "evals.jsonl", lambda: check_evaluations(self._run, self._last)
        yield "drift/", self._check_snapshots
        yield "model/", self._check_model
        yield "rebuild", self._check_rebuild

    def _check_info(self) -> str:
        run = open_run(self._run.path)
        said = check_info(run.info)
        self._run = run
        return said

    def _check_recipe(self) -> str:
        recipe = load_recipe(str(self._run.recipe_path), {})
        self._recipe_loads = True
        return check_recipe(recipe, self._good_info())

    def _check_journal(self) -> str:
        record = read_journal(self._run.journal_path)
        said = check_journal(record, self._run.info or None)
        self._record = record
        return said

    def _check_snapshots(self) -> str:
        said = check_snapshots(self._run, self._good_record())
        if said is None:
            raise _DoesNotApplyError("there is no snapshot")
        return said

    def _check_model(self) -> str:
        info, path = self._good_info(), self._run.model_path
        saved = info.get("saved")
        if not saved:
            raise _DoesNotApplyError("the run has not saved a model yet")
        hint = f"esft replay {self._run.path} --at {saved['step']} --out DIR writes it again"
        if not path.is_dir():
            raise RunError(f"{path} is not there", hint=hint)
        with self._means.watching() as watcher:
            watcher.phase(f"loading {path}")
            found = _identity_of(path, info)
        if found != saved["weights"]:
            raise RunError(f"{path} has {_differing(found, saved)}", hint=hint)
        return f"has the weights of step {saved['step']}, as recorded"

    def _check_rebuild(self) -> str:
        record, saved = self._good_record(), self._run.info.get("saved")
        step = saved["step"] if saved else record.last
        run = self._run if self._run.info and self._recipe_loads else None
        rebuilt = _rebuilt(Source(record=record, run=run), step, self._means)
        if not saved:
            return f"goes through to step {step}; there is no saved model to compare it with"
        if rebuilt.weights != saved["weights"]:
            raise RunError(f"step {step} rebuilds {_differing(rebuilt.weights, saved)}", hint=COPY)
        replay(rebuilt.base.drift, record, record.last)
        on = f"; goes through to step {record.last}" if step < record.last else ""
        return f"makes the weights of step {step}, as recorded{on}"

    @property
    def _last(self) -> int | None:
        return None if self._record is None else self._record.last

    def _good_info(self) -> dict:
        if not self._run.info:
            raise _DoesNotApplyError("run.json is damaged")
        return self._run.info

    def _good_record(self) -> JournalRecord:
        if self._record is None:
            raise _DoesNotApplyError("the journal is damaged")
        return self._record


class _JournalChecks:
    """The checks of a journal without its run folder."""

    def __init__(self, path: Path, means: Means) -> None:
        self._path = path
        self._means = means
        self._source: Source | None = None

    def each(self) -> Iterator[tuple[str, Callable[[], str]]]:
        yield "journal", self._check_journal
        yield "end line", self._check_end
        yield "rebuild", self._check_rebuild

    def _check_journal(self) -> str:
        self._source = find_source(str(self._path))
        return f"{counted(self._source.record.last)}, line by line as written"

    def _check_end(self) -> str:
        record = self._good_source().record
        if record.end is None:
            raise _DoesNotApplyError("there is none: esft export --journal writes one")
        best = record.end.best
        if best is not None and not 0 <= best <= record.last:
            raise JournalError(
                f"{self._path}: the best step is {best}, expected 0 to {record.last}",
                hint=COPY,
            )
        return f"records the weights of step {record.last}"

    def _check_rebuild(self) -> str:
        source = self._good_source()
        last = source.record.last
        if _rebuilt(source, last, self._means).proven:
            return f"makes the weights of step {last}, as the end line recorded"
        return f"goes through to step {last}; there is no end line to compare it with"

    def _good_source(self) -> Source:
        if self._source is None:
            raise _DoesNotApplyError("the journal is damaged")
        return self._source


def _rebuilt(source: Source, step: int, means: Means) -> Rebuilt:
    with means.watching() as watcher:
        return rebuild(
            source,
            str(step),
            watcher,
            model=means.model,
            device=means.device,
            from_base=not means.quick,
        )


def _identity_of(path: Path, info: dict) -> str:
    # On the CPU: the weights are read and no more.
    loaded = load_model(
        str(path.absolute()),
        dtype=info["model"]["dtype"],
        device="cpu",
        trust_remote_code=info["settings"]["model.trust_remote_code"],
    )
    return identity(loaded.model)


def _differing(found: str, saved: dict) -> str:
    return (
        f"weights of sha256 {found[:16]}..., expected {saved['weights'][:16]}..., recorded at "
        f"step {saved['step']}"
    )
