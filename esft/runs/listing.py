"""The runs under runs/ and how they stand, read without loading torch."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from esft.errors import RunError
from esft.files import read_file
from esft.runs.names import is_locked, is_run, list_runs
from esft.runs.records import RunInfo, metrics, read_info, scores

KILLED, DAMAGED = "killed", "damaged"


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """How a run stands; None for what is not there yet or cannot be read."""

    name: str
    path: str
    state: str = DAMAGED  # as recorded, or KILLED: no process works on a run that did not end
    started: str | None = None
    model: str | None = None
    task: str | None = None
    steps: int | None = None  # those done
    planned: int | None = None
    reward_before: float | None = None  # mean over the holdout rows, of the base model
    reward: float | None = None  # at the last evaluation after it
    drift: float | None = None
    size: int = 0  # bytes on the disk
    problem: str | None = None


def listed_runs() -> list[ListedRun]:
    """Return the runs under runs/, the newest first; one that cannot be read is DAMAGED."""
    # A folder may go while the list is made.
    return [_listed(path) for path in list_runs() if is_run(path)]


def _listed(path: Path) -> ListedRun:
    known: dict[str, object] = {"name": path.name, "path": str(path), "size": _size(path)}
    try:
        info = read_info(path)
        known["started"], known["model"] = info.started, info.model.id
        known["task"], known["planned"] = info.settings["task.name"], info.settings["search.steps"]
        for score in scores(path):
            if score.role == "target":
                known["reward" if score.step else "reward_before"] = score.reward
        for step in metrics(path)[-1:]:
            known["drift"] = step.drift
        known["steps"] = _steps(path)
        known["state"] = _state(path, info)
    except RunError as error:
        known["problem"] = str(error)
    return ListedRun(**known)


def _steps(path: Path) -> int:
    """Return the number of whole lines of steps in a journal; esft verify checks what they say."""
    file = path / "journal.jsonl"
    try:
        *lines, _ = read_file(file).split(b"\n")
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror or error}") from error
    if not lines or not lines[0].startswith(b'{"format":'):
        raise RunError(f"{file} does not begin with a header")
    return sum(line.startswith(b'{"step":') for line in lines)


def _state(path: Path, info: RunInfo) -> str:
    if info.state != "running" or is_locked(path):
        return info.state
    # It may have ended since run.json was read.
    now = read_info(path).state
    return KILLED if now == "running" else now


def _size(path: Path) -> int:
    total = 0
    for folder, _, files in os.walk(path):
        for file in files:
            with suppress(OSError):  # it went meanwhile
                total += os.lstat(os.path.join(folder, file)).st_size
    return total
