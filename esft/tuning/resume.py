"""A run goes on where it stopped, however it stopped."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from esft.engine.journal_read import JournalRecord, read_journal
from esft.errors import RunError
from esft.files import remove_partial, writing
from esft.recipe.settings import Recipe, settings_of, with_recorded_paths
from esft.recipe.toml import load_recipe
from esft.runs.folder import RunFolder, open_run, require_room
from esft.runs.names import locked
from esft.runs.records import drop_after
from esft.runs.snapshots import Snapshots
from esft.tuning.plan import make_plan
from esft.tuning.population import Population
from esft.tuning.run_info import recipe_differences, session_differences, versions
from esft.tuning.session import Session, open_session
from esft.tuning.start import PopulationOf, go_on, room
from esft.tuning.watcher import Outcome, Watcher


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that has nothing left to do."""

    run_path: str
    model_path: str
    steps: int


def resume_tuning(
    path: Path, watcher: Watcher, stop: Callable[[], bool], population: PopulationOf = Population
) -> Outcome | Finished:
    """Go on with a run: the same journal and the same bits as if it had never stopped.

    In its recipe.toml `search.steps` may be raised since, and where things lie may change. The
    other arguments are those of `run_tuning`.

    Raises:
        EsftError: if another process works on the run, its files are damaged, or base model,
            recipe, rows or noise are not those that it began with.
    """
    with locked(path):
        run = open_run(path)
        record = read_journal(run.journal_path)
        recipe = load_recipe(str(run.recipe_path), {})
        if run.info["state"] == "finished":
            steps = run.info["saved"]["step"]
            if record.last != steps or record.torn:
                raise RunError(
                    f"{record.path} has {record.last} whole steps, but run.json says that the run "
                    f"finished with {steps}: lines are missing",
                    hint="take another copy of the journal",
                )
            if recipe.search.steps <= run.info["settings"]["search.steps"]:
                return Finished(
                    run_path=str(path), model_path=str(run.model_path), steps=record.last
                )
        _refuse(run, recipe_differences(recipe, run.info))
        _take_threads(run, watcher)
        watcher.phase(f"loading {recipe.model.id}")
        session = _open_again(run, record, recipe)
        # Snapshots that are there make way for those to come.
        require_room(path, room(session) - Snapshots(path / "drift").nbytes)
        _clear(run, record, watcher)
        watcher.plan(make_plan(session, str(path)))
        run.update_info(state="running", settings=settings_of(recipe))
        return go_on(session, run, record, watcher, stop, population)


def _open_again(run: RunFolder, record: JournalRecord, recipe: Recipe) -> Session:
    """Open a run's files where they were, in the dtype chosen then, with the batch that fit."""
    recipe = with_recorded_paths(recipe, run.info["places"])
    recipe = replace(recipe, model=replace(recipe.model, dtype=record.header["dtype"]))
    session = open_session(recipe, batch=run.info["batches"][-1][1])
    _refuse(run, session_differences(session, run.info, record))
    return session


def _refuse(run: RunFolder, differences: list[str]) -> None:
    if differences:
        raise RunError(
            f"run {run.path} is not as it was: {'; '.join(differences)}",
            hint="put it back as it was, or start a new run: only more steps, and where things "
            "lie, may change within one",
        )


def _take_threads(run: RunFolder, watcher: Watcher) -> None:
    """Take the run's number of threads; tell of what else may change its last bits."""
    torch.set_num_threads(run.info["threads"])
    now, was = versions(), run.info["versions"]
    others = [f"{name} {now[name]} (was {was[name]})" for name in now if now[name] != was[name]]
    if others:
        watcher.notice(f"{', '.join(others)}: from here on results can differ in their last bits")


def _clear(run: RunFolder, record: JournalRecord, watcher: Watcher) -> None:
    """Remove what came after the last whole step, and what was left half-written."""
    if record.torn:
        watcher.notice(f"the journal's last line was cut off: step {record.last + 1} is made again")
        with writing(record.path), open(record.path, "r+b") as file:
            file.truncate(record.whole)
            os.fsync(file.fileno())
    for folder in (run.path, run.path / "drift", run.path / "evals"):
        remove_partial(folder)
    drop_after(run.path, record.last)
    Snapshots(run.path / "drift").drop_after(record.last)
