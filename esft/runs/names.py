"""Run folders by name: where a new run goes, which one is meant, who works on it, its removal."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from esft.errors import RunError
from esft.files import remove_folder, slug, writing

RUNS = Path("runs")
PLASTICITY = "plasticity"
"""Folder within that of a run, for runs from its base and from its model on another task."""
_PATIENCE = 1.0  # seconds to wait for a lock: `esft runs` looks at it for a moment


def choose_run_path(named: str | None, task: str, model: str) -> Path:
    """Return where a new run goes: as named, or the next free runs/<task>-<model>-<number>.

    RunError if the named folder exists and is not empty.
    """
    if named is not None:
        path = Path(named)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            hint = "name another --run-dir, or move the old one away"
            if is_run(path):
                hint += f"; esft resume {path} goes on with it"
            raise RunError(
                f"run folder {path} exists, expected a new name: a run is never overwritten",
                hint=hint,
            )
        return path
    names = (RUNS / f"{stem_of(task, model)}-{number}" for number in count(1))
    return next(path for path in names if not path.exists())


def stem_of(task: str, model: str) -> str:
    """Return what the folder of a run is called by itself, but for its number."""
    # Cut, since no name of a folder may be longer than 255 bytes.
    return f"{slug(Path(task).stem)[:80]}-{slug(Path(model).name.removesuffix('.gguf'))[:80]}"


def find_run(name: str | None) -> Path:
    """Return the folder of a run: a name under runs/, a path, or the newest under runs/.

    RunError if there is none, with the names there are.
    """
    paths = list_runs() if name is None else [RUNS / name, Path(name)]
    for path in paths:
        if is_run(path):
            return path
    if name is None:
        raise RunError(
            f"there is no run under {RUNS}/",
            hint="name the folder of a run, or start one: esft tune quickstart",
        )
    problem = "is not a run folder: it has no run.json" if Path(name).exists() else "is not a run"
    names = ", ".join(path.name for path in list_runs()[:5])
    raise RunError(
        f"{name} {problem}, expected a name under {RUNS}/ or the path of a run folder",
        hint=f"esft runs lists them; the newest are {names}" if names else "esft tune makes one",
    )


def list_runs() -> list[Path]:
    """Return the run folders under runs/, the newest first."""
    if not RUNS.is_dir():
        return []

    def began(run: Path) -> float:
        with suppress(OSError):  # recipe.toml is written once, when the run begins
            return (run / "recipe.toml").stat().st_mtime
        return 0.0

    # Hidden ones are still being made, or were left half-made by a kill.
    runs = [path for path in RUNS.iterdir() if not path.name.startswith(".") and is_run(path)]
    return sorted(runs, key=lambda run: (began(run), run.name), reverse=True)


def is_run(path: Path) -> bool:
    """Return whether a path is a run folder, be its run.json good or not."""
    return os.path.lexists(path / "run.json")


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder inside the block; raise RunError if another process holds it.

    The system lets go when the process ends, however.
    """
    lock = FileLock(run / ".lock")
    with writing(run):
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            raise RunError(
                f"run {run} is in use: another process is working on it",
                hint="wait until it ends, or stop it with Ctrl-C in its terminal",
            ) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(run: Path) -> bool:
    """Return whether a process holds a run folder; False where that cannot be seen."""
    file = run / ".lock"
    if not file.exists():
        return False
    try:
        with FileLock(file).acquire(timeout=0):
            return False
    except OSError as error:
        return isinstance(error, Timeout)


def removable(names: Sequence[str]) -> list[Path]:
    """Return the folders of the runs that are meant, each once.

    RunError if one is not a run, is a link, holds other runs, or a process works on it.
    """
    paths = list({path.absolute(): path for path in map(find_run, names)}.values())
    for path in paths:
        if path.is_symlink():
            raise RunError(
                f"{path} is a link to {path.resolve()}, expected the folder itself: nothing is "
                "removed",
                hint=f"name that folder, and remove the link yourself: esft rm {path.resolve()}",
            )
        others = (Path(folder) for folder, _, files in os.walk(path) if "run.json" in files)
        strange = (one for one in others if one != path and one.parent != path / PLASTICITY)
        if within := next(strange, None):
            raise RunError(
                f"{path} has another run in it, {within}, expected a run alone: nothing is removed",
                hint="move that one out, or name it if it is meant",
            )
        with locked(path):
            pass
    return paths


def remove_run(path: Path) -> None:
    """Remove a run folder at once; RunError if a process works on it. No link is followed."""
    with locked(path):
        remove_folder(path)
