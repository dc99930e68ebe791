"""A run from its recipe to the tuned model, and on from where it stopped, however it stopped."""

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from esft.engine.drift import Drift
from esft.engine.forecast import forecast_of
from esft.engine.journal_read import JournalRecord, made_with
from esft.errors import RecipeError, RunError, TakenError
from esft.files import write_whole, writing
from esft.models.find import at_commit
from esft.models.shape import shape_of
from esft.recipe.settings import Recipe, settings_of
from esft.recipe.stages import TABLE
from esft.recipe.toml import dump_recipe, load_recipe
from esft.runs.folder import RunFolder, create_run, open_run, require_room
from esft.runs.names import choose_run_path, is_run, locked
from esft.runs.records import drop_after, metrics
from esft.runs.snapshots import Snapshots
from esft.runs.steps import ProbeRecord, StepMetrics, search_scales
from esft.tuning.lead import Lead
from esft.tuning.loop import Loop
from esft.tuning.memory import disk_bytes
from esft.tuning.plan import stage_words, tell_plan
from esft.tuning.population import Population
from esft.tuning.ranks import Ranks
from esft.tuning.rebuild import Source, bring_to, rebuild
from esft.tuning.recorder import Recorder, drop_model, save_tuned
from esft.tuning.run_info import (
    changed_files,
    changed_settings,
    device_of,
    journal_header,
    recorded_settings,
    run_info,
    versions,
    with_recorded_paths,
)
from esft.tuning.screen import screen_of
from esft.tuning.session import Opened, Session, fit_batch, open_sessions, with_seed
from esft.tuning.threads import fit_threads
from esft.tuning.track import require_tracker, tracked
from esft.tuning.verify import FAILED, checked, model_as_saved
from esft.tuning.watcher import Outcome, Watcher


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that has nothing left to do."""

    run_path: str
    model_path: str | None  # None where the run keeps none
    steps: int


def run_tuning(
    recipe: Recipe,
    watcher: Watcher,
    stop: Callable[[], bool],
    population: Callable[[Session], Population] = Population,
    opened: Opened | None = None,
    ranks: Ranks | None = None,
    probed: ProbeRecord | None = None,
) -> Outcome | Finished:
    """Tune a model as `recipe` says and leave a run folder with the tuned model.

    Args:
        recipe: a missing seed is drawn and recorded.
        watcher: shows progress.
        stop: asked after each step; True ends the run there, with the model saved.
        population: makes what rolls out the members.
        opened: the recipe's model, where it is loaded already.
        probed: by what sigma was chosen, to be kept with the run.
        ranks: the other processes of a torchrun, which this one leads. Where torchrun started them
            again, the run that the recipe names goes on, or is finished.

    Raises:
        EsftError: for what the user can fix. What was recorded stays, and where a step was
            done, the model as it is then is saved first.
    """
    if ranks is not None and (begun := _begun_before(recipe, ranks)) is not None:
        return resume_tuning(begun, watcher, stop, ranks=ranks, typed=recipe)
    path = choose_run_path(recipe.run.dir, recipe.called, recipe.model.id)
    require_tracker(recipe.run.track)
    if opened is None:
        watcher.phase(f"loading {recipe.model.id}")
    lead, recipe = Lead(ranks, recipe), with_seed(recipe)
    lead.open(recipe)
    sessions = open_sessions(recipe, opened=opened)
    lead.opened(sessions)
    _require_room(sessions[0], path)
    fit_threads(sessions[0], watcher)
    fit_batch(sessions, watcher, lead.local_ranks)
    run = _create(sessions)
    with locked(run.path):
        if probed is not None:
            run.record_probe(probed)
        tell_plan(sessions, run.path, watcher)
        return _go_on(sessions, run, run.read_journal(), watcher, stop, lead, population)


def resume_tuning(
    path: Path,
    watcher: Watcher,
    stop: Callable[[], bool],
    steps: int | None = None,
    ranks: Ranks | None = None,
    typed: Recipe | None = None,
) -> Outcome | Finished:
    """Go on with a run: the same journal and the same bits as if it had never stopped.

    In its recipe.toml `search.steps` may be raised since, or here by `steps`, which is written
    there; where things lie may change. `ranks` as in `run_tuning`; they may have been asked for the
    recipe that was `typed`, where it names this run.

    Raises:
        EsftError: if another process works on the run, its files are damaged, or base model,
            recipe, rows or noise are not those that it began with.
    """
    with locked(path):
        run = open_run(path)
        record = run.read_journal()
        if steps is not None and run.info.settings.get(TABLE):
            raise RunError(
                f"--steps is {steps}, expected none: run {path} is a chain, of the steps that its "
                "stages have",
                hint="start another run from its model: esft export, then --model DIR",
            )
        changes = {} if steps is None else {"search.steps": steps}
        recipe = load_recipe(str(run.recipe_path), changes)
        planned = run.info.settings["search.steps"]
        if run.info.state == "finished" and recipe.search.steps <= planned:
            return _finished(run, record, recipe.run.keep_model, watcher)
        _refuse(run, changed_settings(recipe, run.info))
        require_tracker(recipe.run.track)
        lead = Lead(ranks, typed)
        sessions = _open_again(run, record, recipe, watcher, lead)
        _require_room(sessions[0], path)
        _clear(run, record, watcher)
        tell_plan(sessions, path, watcher)
        if changes:
            write_whole(run.recipe_path, dump_recipe(recipe))
        run.update_info(state="running", settings=recorded_settings(recipe, sessions[0].base))
        return _go_on(sessions, run, record, watcher, stop, lead)


def _begun_before(recipe: Recipe, ranks: Ranks) -> Path | None:
    """Return the run of a recipe, begun before torchrun started its processes again; or None.

    RunError if it is another one's, RecipeError if nothing would say which it is.
    """
    if ranks.place.may_restart and recipe.run.dir is None:
        raise RecipeError(
            "torchrun is asked for --max-restarts, expected a name of the run too: started again, "
            "it goes on with that",
            hint="add --run-dir runs/NAME",
        )
    path = None if recipe.run.dir is None else Path(recipe.run.dir)
    if not ranks.place.restarts or path is None or not is_run(path):
        return None
    run = open_run(path)
    said = {key: value for key, value in settings_of(recipe).items() if value is not None}
    began = run.info.settings
    stages = said.get(TABLE), began.get(TABLE)
    if all(stages) and len(stages[0]) == len(stages[1]):
        # Those of the run have the numbers of rows that there are, too.
        said[TABLE] = [was | now for now, was in zip(*stages, strict=True)]
    _refuse(run, changed_settings(load_recipe(None, began | said), run.info))
    return path


def _create(sessions: Sequence[Session]) -> RunFolder:
    """Make the run's folder, under the next free name if none is asked for."""
    made = run_info(sessions), journal_header(sessions[0])
    recipe = sessions[0].whole
    while True:
        # Another run may have taken the name while this one loaded its model.
        path = choose_run_path(recipe.run.dir, recipe.called, recipe.model.id)
        with suppress(TakenError):
            return create_run(path, dump_recipe(recipe), *made)


def _require_room(session: Session, path: Path) -> None:
    """Refuse a disk without room for the model and the snapshots that a run leaves."""
    base = session.base
    shape, keep = shape_of(base.loaded.model), session.recipe.run.keep_model
    needed = disk_bytes(shape, base.weights.numel, base.anchor, keep)
    # Those there make way for new ones.
    there = sum(file.stat().st_size for file in (path / "drift").glob("step-*.safetensors"))
    require_room(path, needed - there)


def _refuse(run: RunFolder, differences: list[str]) -> None:
    if differences:
        raise RunError(
            f"run {run.path} is not as it was: {'; '.join(differences)}",
            hint="put it back as it was, or start a new run: only more steps, and where things "
            "lie, may change within one",
        )


def _open_again(
    run: RunFolder, record: JournalRecord, recipe: Recipe, watcher: Watcher, lead: Lead
) -> tuple[Session, ...]:
    """Open a run's files where they were, with the threads, the dtype and the batch of then."""
    torch.set_num_threads(run.info.threads)
    watcher.phase(f"loading {recipe.model.id}")
    recipe = with_recorded_paths(recipe, **vars(run.info.places))
    as_then = {"id": at_commit(recipe.model.id, record.header["model"])}
    as_then["dtype"] = record.header["dtype"]
    recipe = replace(recipe, model=replace(recipe.model, **as_then))
    lead.open(recipe)
    sessions = open_sessions(recipe, batch=run.info.batch)
    lead.opened(sessions)
    now = versions() | {"device": device_of(sessions[0])}
    was = run.info.versions | {"device": run.info.device}
    others = [
        f"{name} {now[name]} (was {was.get(name, 'not recorded')})"
        for name in now
        if now[name] != was.get(name)
    ]
    if others:
        watcher.notice(f"{', '.join(others)}: from here on results can differ in their last bits")
    _refuse(run, changed_files(sessions, run.info, record))
    return sessions


def _finished(run: RunFolder, record: JournalRecord, keep: bool, watcher: Watcher) -> Finished:
    """Return what is said of a finished run, with its model/ there if its recipe keeps one by now,
    and gone if not."""
    if keep != (run.kept_model is not None):
        run.update_info(settings=run.info.settings | {"run.keep_model": keep})
    if keep:
        _require_model(run, record, watcher)
    else:
        drop_model(run)
    model = run.kept_model and str(run.kept_model)
    return Finished(run_path=str(run.path), model_path=model, steps=record.last)


def _require_model(run: RunFolder, record: JournalRecord, watcher: Watcher) -> None:
    """Make the model of a finished run again where it is gone, or another."""
    check = checked("model/", lambda: model_as_saved(run, watcher))
    if check.result != FAILED:
        return
    watcher.notice(f"{check.text}; the model is made again")
    step, end = run.info.saved.step, run.info.saved.end
    rebuilt = rebuild(Source(record=record, run=run), str(step), watcher)
    saved = {"step": step, "weights": rebuilt.weights, "journal": record.checksums[step]}
    save_tuned(run, rebuilt.base.loaded, watcher, **saved, end=end)


def _clear(run: RunFolder, record: JournalRecord, watcher: Watcher) -> None:
    """Remove what came after the last whole step."""
    if record.torn:
        watcher.notice(f"the journal's last line was cut off: step {record.last + 1} is made again")
        with writing(record.path), open(record.path, "r+b") as file:
            file.truncate(record.whole)
            os.fsync(file.fileno())
    drop_after(run.path, record.last)
    Snapshots(run.path / "drift").drop_after(record.last)


def _lost(record: JournalRecord, step: int, drift: Drift, forecast: float) -> StepMetrics:
    """Return the metrics of a step, which `drift` is at, as far as its journal tells them."""
    line = record.steps[step - 1]
    rewards = [reward for reward in line.rewards if math.isfinite(reward)]
    members = sum(not math.isnan(coefficient) for coefficient in line.coefficients)
    made = made_with(line, record.header)
    return StepMetrics(
        step=step,
        reward_mean=sum(rewards) / len(rewards),
        reward_best=max(rewards),
        members=members,
        **search_scales(made.sigma, made.alpha, members),
        drift=drift.norm(),
        anchor=None if drift.anchor is None else drift.anchor.norm(),
        forecast=forecast,
        changed=drift.changed_share,
        replayed=True,
    )


def _go_on(
    sessions: Sequence[Session],
    run: RunFolder,
    record: JournalRecord,
    watcher: Watcher,
    stop: Callable[[], bool],
    lead: Lead,
    population: Callable[[Session], Population] = Population,
) -> Outcome:
    """Bring sessions just opened to the last step of their journal, and make those that are left,
    stage by stage."""
    base = sessions[0].base
    forecast = forecast_of(record, base.weights.numel)
    known = {line.step for line in metrics(run.path)}

    def record_lost(step: int) -> None:
        """Record the metrics of a step just made again, as far as the journal tells them."""
        if step not in known:
            run.record_metrics(_lost(record, step, base.drift, forecast.norms[step]))

    source, journal = Source(record=record, run=run), run.journal(record)
    # Also one whose last step is made, in case it was not evaluated.
    left = [session for session in sessions if session.end >= record.last or session.last]
    made, started = [], time.monotonic()
    with tracked(sessions[0].recipe.run.track, run, watcher):
        lead.bring(sessions[0], run, record)
        bring_to(base, source, record.last, watcher, on_step=record_lost)
        for session in left:
            if session.whole.stages:
                watcher.phase(stage_words(session))
            members = lead.population(session, population, watcher)
            recorder = Recorder(session, run, journal, watcher, members)
            screen = screen_of(session, record)
            rest = watcher, record.header, screen, made, started
            outcome = Loop(session, members, recorder, forecast, *rest).run(stop)
            if outcome is not None:
                return outcome
    raise AssertionError("the last stage ends a run")
