"""A run from its recipe to the tuned model."""

import math
from collections.abc import Callable

from esft.engine.forecast import forecast_of
from esft.engine.journal_read import JournalRecord, read_journal
from esft.recipe.settings import Recipe
from esft.recipe.toml import dump_recipe
from esft.runs.folder import RunFolder, create_run, require_room
from esft.runs.names import choose_run_path, locked
from esft.runs.records import metrics
from esft.runs.snapshots import NEWEST
from esft.tuning.loop import Loop
from esft.tuning.plan import make_plan
from esft.tuning.population import Population
from esft.tuning.rebuild import Source, bring_to
from esft.tuning.recorder import Recorder
from esft.tuning.run_info import journal_header, run_info
from esft.tuning.session import Session, open_session
from esft.tuning.watcher import Failures, Outcome, Watcher

PopulationOf = Callable[[Session, Failures], Population]
"""Makes what rolls out the members of a run."""


def run_tuning(
    recipe: Recipe,
    watcher: Watcher,
    stop: Callable[[], bool],
    population: PopulationOf = Population,
) -> Outcome:
    """Tune a model as `recipe` says and leave a run folder with the tuned model.

    Args:
        recipe: a missing seed is drawn and recorded.
        watcher: shows progress.
        stop: asked after each step; True ends the run there, with the model saved.
        population: makes what rolls out the members.

    Raises:
        EsftError: for what the user can fix. What was recorded stays, and where a step was
            done, the model as it is then is saved first.
    """
    path = choose_run_path(recipe.run.dir, recipe.task.name, recipe.model.id)
    watcher.phase(f"loading {recipe.model.id}")
    session = open_session(recipe)
    require_room(path, room(session))
    watcher.plan(make_plan(session, str(path)))
    recipe = dump_recipe(session.recipe)
    run = create_run(path, recipe, run_info(session), journal_header(session))
    with locked(path):
        record = read_journal(run.journal_path)
        return go_on(session, run, record, watcher, stop, population)


def room(session: Session) -> int:
    """Return the bytes that a run leaves on the disk: the model and the snapshots of the drift."""
    model = sum(parameter.nbytes for parameter in session.base.loaded.model.parameters())
    # The newest, that of the best step, and one being written.
    return model + (NEWEST + 2) * session.base.drift.state_nbytes


def go_on(
    session: Session,
    run: RunFolder,
    record: JournalRecord,
    watcher: Watcher,
    stop: Callable[[], bool],
    population: PopulationOf,
) -> Outcome:
    """Bring a session just opened to the last step of its journal, and make those that are left."""
    forecast = forecast_of(record, session.base.weights.numel)
    known = {line["step"] for line in metrics(run.path)}

    def record_lost(step: int) -> None:
        """Record the metrics of a step just made again, as far as the journal tells them."""
        if step in known:
            return
        line = record.steps[step - 1]
        rewards = [reward for reward in line.rewards if math.isfinite(reward)]
        run.record_metrics(
            {
                "step": step,
                "reward_mean": sum(rewards) / len(rewards),
                "reward_best": max(rewards),
                "members": sum(not math.isnan(coefficient) for coefficient in line.coefficients),
                "drift": session.base.drift.norm(),
                "forecast": forecast.norms[step],
                "replayed": True,
            }
        )

    source = Source(record=record, run=run)
    bring_to(session.base, source, record.last, watcher, on_step=record_lost)
    recorder = Recorder(session, run, run.journal(record.checksum), watcher)
    members = population(session, recorder.failures)
    return Loop(session, members, recorder, forecast, watcher).run(stop)
