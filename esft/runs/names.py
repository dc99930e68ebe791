"""Which folder a run goes to, and which one a name means."""

from pathlib import Path

from esft.errors import RunError
from esft.files import slug

RUNS = Path("runs")


def choose_run_path(named: str | None, task: str, model: str) -> Path:
    """Return where a new run goes: as named, or the next free runs/<task>-<model>-<number>.

    Raises:
        RunError: if the named folder exists and is not empty.
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
    stem = f"{slug(Path(task).stem)}-{slug(Path(model).name.removesuffix('.gguf'))}"
    number = 1
    while (RUNS / f"{stem}-{number}").exists():
        number += 1
    return RUNS / f"{stem}-{number}"


def find_run(name: str | None) -> Path:
    """Return the folder of a run: a name under runs/, a path, or the newest under runs/.

    Raises:
        RunError: if there is none, with the names there are.
    """
    if name is None:
        return _newest()
    for path in (RUNS / name, Path(name)):
        if is_run(path):
            return path
    found = Path(name)
    what = "is no run folder: it has no run.json" if found.exists() else "is no run"
    names = ", ".join(path.name for path in list_runs()[:5])
    raise RunError(
        f"{name} {what}, expected a name under {RUNS}/ or the path of a run folder",
        hint=f"esft runs lists them; the newest are {names}" if names else "esft tune makes one",
    )


def list_runs() -> list[Path]:
    """Return the run folders under runs/, the newest first."""
    if not RUNS.is_dir():
        return []
    # Hidden ones are still being made, or were left half-made by a kill.
    found = (path for path in RUNS.iterdir() if not path.name.startswith("."))
    return sorted(filter(is_run, found), key=_age, reverse=True)


def is_run(path: Path) -> bool:
    """Return whether a path is a run folder."""
    return (path / "run.json").is_file()


def _newest() -> Path:
    runs = list_runs()
    if not runs:
        raise RunError(
            f"there is no run under {RUNS}/",
            hint="name the folder of a run, or start one: esft tune quickstart",
        )
    return runs[0]


def _age(path: Path) -> tuple[float, str]:
    # recipe.toml is written once, when the run begins.
    try:
        return (path / "recipe.toml").stat().st_mtime, path.name
    except OSError:
        return 0.0, path.name
