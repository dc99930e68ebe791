"""A run from its recipe to the tuned model."""

import time
from collections.abc import Callable
from pathlib import Path

from esft.engine.forecast import Forecast
from esft.engine.journal_read import read_journal
from esft.recipe.settings import Recipe
from esft.recipe.toml import dump_recipe
from esft.runs.folder import create_run, require_room
from esft.runs.names import choose_run_path, locked
from esft.runs.snapshots import NEWEST
from esft.tuning.failures import Failures
from esft.tuning.loop import Tuning
from esft.tuning.plan import make_plan
from esft.tuning.run_info import journal_header, run_info
from esft.tuning.session import Session, open_session
from esft.tuning.watcher import Outcome, Watcher


def run_tuning(recipe: Recipe, watcher: Watcher, stop: Callable[[], bool]) -> Outcome:
    """Tune a model as `recipe` says and leave a run folder with the tuned model.

    Args:
        recipe: the settings; a missing seed is drawn and recorded.
        watcher: told of progress.
        stop: asked after each step; True ends the run there, with the model saved.

    Raises:
        EsftError: for what the user can fix. What was recorded stays, and where a step was
            done, the model as it is then is saved first.
    """
    path = choose_run_path(recipe.run.dir, Path(recipe.task.name).stem, recipe.model.id)
    watcher.phase(f"loading {recipe.model.id}")
    session = open_session(recipe)
    require_room(path, room(session))
    noise_seconds = tell_plan(session, str(path), watcher)
    header = journal_header(session)
    run = create_run(path, dump_recipe(session.recipe), run_info(session), header)
    with locked(path):
        return Tuning(
            session,
            run,
            run.journal(read_journal(run.journal_path).checksum),
            start_forecast(session),
            watcher,
            Failures(watcher),
            noise_seconds,
        ).run(stop)


def tell_plan(session: Session, run_path: str, watcher: Watcher) -> float:
    """Tell the first lines of a run; return the seconds that noise for every weight takes."""
    started = time.monotonic()
    watcher.plan(make_plan(session, run_path))
    return time.monotonic() - started


def start_forecast(session: Session) -> Forecast:
    """Return the forecast of a session's drift before the first step."""
    search, anchor = session.recipe.search, session.recipe.anchor
    return Forecast(session.weights.numel, search.alpha, anchor.awd, anchor.norm)


def room(session: Session) -> int:
    """Return the bytes that a run leaves on the disk: the model and the snapshots of the drift."""
    model = sum(parameter.nbytes for parameter in session.loaded.model.parameters())
    # The newest, that of the best step, and one being written.
    return model + (NEWEST + 2) * session.drift.state_nbytes
