"""A run goes on where it stopped, however it stopped."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from esft.engine.forecast import Forecast, sum_of_squares
from esft.engine.journal_read import JournalRecord, contributions, read_journal, replay
from esft.engine.members import net_coefficients
from esft.errors import RunError
from esft.files import remove_partial, writing
from esft.recipe.paths import own_files, with_recorded_paths
from esft.recipe.settings import Recipe, settings_of
from esft.recipe.toml import load_recipe
from esft.runs.folder import RunFolder, open_run, require_room
from esft.runs.names import locked
from esft.runs.records import drop_after, metrics, summaries
from esft.runs.snapshots import Snapshots
from esft.tuning.differences import Difference, recipe_differences, session_differences
from esft.tuning.failures import Failures
from esft.tuning.loop import Tuning
from esft.tuning.restore import load_nearest, noises
from esft.tuning.run_info import rows_info, versions
from esft.tuning.session import Session, open_session
from esft.tuning.start import room, start_forecast, tell_plan
from esft.tuning.watcher import Outcome, Watcher


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that has nothing left to do."""

    run_path: str
    model_path: str
    steps: int


def resume_tuning(
    path: Path, watcher: Watcher, stop: Callable[[], bool], force: bool = False
) -> Outcome | Finished:
    """Go on with a run: the same journal and the same bits as if it had never stopped.

    Args:
        path: of the run folder.
        watcher: told of progress.
        stop: asked after each step; True ends the run there, with the model saved.
        force: go on although something changed, which the journal then records.

    Raises:
        EsftError: if another process works on the run, its files are damaged, or base model,
            recipe, rows or noise are not those that it began with.
    """
    with locked(path):
        run = open_run(path)
        record = read_journal(run.journal_path)
        if run.info["state"] == "finished" and not force:
            return _finished(run, record)
        recipe = load_recipe(str(run.recipe_path), {})
        changed = recipe_differences(recipe, run.info)
        _refuse(run, changed, force)
        _as_before(run, watcher)
        watcher.phase(f"loading {recipe.model.id}")
        named = {each.what for each in changed}
        # The size that was found to fit, unless another one was forced.
        batch = None if "task.batch" in named else run.info["batches"][-1][1]
        session = open_session(as_made(recipe, run, record), batch)
        more = session_differences(session, run.info, record)
        changed += [each for each in more if each.what not in named]
        _refuse(run, changed, force)
        # Snapshots that are there make way for those to come.
        require_room(path, room(session) - Snapshots(path / "drift").nbytes)
        return _go_on(run, record, session, watcher, changed, recipe).run(stop)


def as_made(recipe: Recipe, run: RunFolder, record: JournalRecord) -> Recipe:
    """Return the recipe with files where they were, and the dtype that was chosen then."""
    recipe = with_recorded_paths(recipe, run.info["places"])
    dtype = str(record.header["dtype"])
    return replace(recipe, model=replace(recipe.model, dtype=recipe.model.dtype or dtype))


def _finished(run: RunFolder, record: JournalRecord) -> Finished:
    steps = run.info["saved"]["step"]
    if record.last != steps or record.torn:
        raise RunError(
            f"{record.path} has {record.last} whole steps, but run.json says that the run "
            f"finished with {steps}: lines are missing",
            hint="take another copy of the journal; --force makes the missing steps again",
        )
    return Finished(run_path=str(run.path), model_path=str(run.model_path), steps=steps)


def _refuse(run: RunFolder, changed: list[Difference], force: bool) -> None:
    if not changed or (force and {each.what for each in changed} == {"search.steps"}):
        return
    fixed = [each for each in changed if not each.forcible]
    listed = "; ".join(map(str, fixed if force else changed))
    if force:
        raise RunError(
            f"run {run.path} cannot go on: {listed}; the journal holds for one value alone",
            hint="put it back as it was, or start a new run",
        )
    raise RunError(
        f"run {run.path} is not as it was: {listed}",
        hint="put it back as it was; or --force goes on with the change and records it"
        if not fixed
        else "put it back as it was, or start a new run",
    )


def _as_before(run: RunFolder, watcher: Watcher) -> None:
    """Take the run's number of threads; tell of what may change its last bits."""
    torch.set_num_threads(run.info["threads"])
    now, was = versions(), run.info["versions"]
    others = [f"{name} {now[name]} (was {was[name]})" for name in now if now[name] != was[name]]
    if others:
        watcher.notice(f"{', '.join(others)}: from here on results can differ in their last bits")


def _go_on(
    run: RunFolder,
    record: JournalRecord,
    session: Session,
    watcher: Watcher,
    changed: list[Difference],
    recipe: Recipe,
) -> Tuning:
    """Return the run brought to its last whole step, its folder cleared of what came after."""
    _clear(run, record, watcher)
    noise_seconds = tell_plan(session, str(run.path), watcher)
    forecast = start_forecast(session)
    _restore(run, record, session, forecast, watcher, noise_seconds)
    journal = run.journal(record.checksum)
    if changed:
        for each in changed:
            watcher.notice(f"forced: {each}")
        _record_change(run, session, recipe)
    run.update_info(state="running")
    failures = Failures(watcher, _failures_so_far(run))
    return Tuning(session, run, journal, forecast, watcher, failures, noise_seconds)


def _clear(run: RunFolder, record: JournalRecord, watcher: Watcher) -> None:
    if record.torn:
        watcher.notice(f"the journal's last line was cut off: step {record.last + 1} is made again")
        with writing(record.path), open(record.path, "r+b") as file:
            file.truncate(record.whole)
            os.fsync(file.fileno())
    for folder in (run.path, run.path / "drift", run.path / "evals"):
        remove_partial(folder)
    drop_after(run.path, record.last)
    Snapshots(run.path / "drift").drop_after(record.last)


def _restore(
    run: RunFolder,
    record: JournalRecord,
    session: Session,
    forecast: Forecast,
    watcher: Watcher,
    noise_seconds: float,
) -> None:
    """Bring drift and forecast to the journal's last step, and fill gaps in metrics.jsonl."""
    load_nearest(session.drift, record, record.last, Snapshots(run.path / "drift"), watcher.notice)
    since = session.drift.steps
    known = {line["step"] for line in metrics(run.path)}

    def advance(step: int) -> None:
        members, coefficients = contributions(record.steps[step - 1], record.header)
        forecast.step(len(members), sum_of_squares(net_coefficients(members, coefficients)))

    def made(step: int) -> None:
        advance(step)
        if step not in known:
            run.record_metrics(_metrics(record, step, session, forecast))

    for step in range(1, since + 1):
        advance(step)
    if record.last > since:
        watcher.rebuild(since, record.last, noise_seconds * noises(record, since, record.last))
    replay(session.drift, record, record.last, made)


def _metrics(
    record: JournalRecord, step: int, session: Session, forecast: Forecast
) -> dict[str, object]:
    """Return what the journal tells of a step whose line of metrics was lost."""
    made = record.steps[step - 1]
    members, _ = contributions(made, record.header)
    rewards = [reward for reward in made.rewards if math.isfinite(reward)]
    return {
        "step": step,
        "reward_mean": sum(rewards) / len(rewards),
        "reward_best": max(rewards),
        "members": len(members),
        "drift": session.drift.norm(),
        "forecast": forecast.norm(),
        "replayed": True,
    }


def _record_change(run: RunFolder, session: Session, recipe: Recipe) -> None:
    run.update_info(
        settings=settings_of(recipe),
        rows=rows_info(session),
        files=own_files(session.recipe),
        model=run.info["model"] | {"base": session.base.identity},
    )


def _failures_so_far(run: RunFolder) -> int:
    lines = [*metrics(run.path), *summaries(run.path)]
    return sum(line.get("grader_failures", 0) for line in lines)
