"""The runs under runs/ and how they stand, read without loading torch."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from esft.errors import RunError
from esft.files import read_file
from esft.recipe.stages import tuned_on
from esft.runs.differences import differences
from esft.runs.names import is_locked, is_run, list_runs
from esft.runs.records import RunInfo, metrics, read_info, scores

DAMAGED = "damaged"


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """How a run stands; None for what is not there yet or cannot be read."""

    name: str
    path: str
    differs: str = ""  # from the other runs of the same task and model, in words
    state: str = DAMAGED  # else as `state_of` says
    started: str | None = None
    model: str | None = None
    task: str | None = None
    steps: int | None = None  # those done
    planned: int | None = None
    accuracy_before: float | None = None  # of the holdout rows, by the base model
    accuracy: float | None = None  # at the last evaluation after it
    reward_before: float | None = None  # mean over the same rows
    reward: float | None = None
    drift: float | None = None
    size: int = 0  # bytes on the disk
    problem: str | None = None


def listed_runs() -> list[ListedRun]:
    """Return the runs under runs/, the newest first; one that cannot be read is DAMAGED."""
    # A folder may go while the list is made.
    listed = [_listed(path) for path in list_runs() if is_run(path)]
    alike: dict[tuple[str, str], list[int]] = {}
    for number, (_, settings) in enumerate(listed):
        if settings:
            alike.setdefault((tuned_on(settings), settings["model.id"]), []).append(number)
    words = [""] * len(listed)
    for numbers in alike.values():
        told = differences([listed[number][1] for number in numbers])
        for number, text in zip(numbers, told, strict=True):
            words[number] = text
    return [replace(run, differs=text) for (run, _), text in zip(listed, words, strict=True)]


def _listed(path: Path) -> tuple[ListedRun, dict[str, object]]:
    """Return how a run stands, and its settings; none where they cannot be read."""
    known: dict[str, object] = {"name": path.name, "path": str(path), "size": size_of(path)}
    settings: dict[str, object] = {}
    try:
        info = read_info(path)
        known["started"], known["model"], settings = info.started, info.model.id, info.settings
        known["task"], known["planned"] = tuned_on(settings), settings["search.steps"]
        for score in scores(path):
            if score.role == "target" and score.step <= (info.peak or score.step):
                when = "" if score.step else "_before"
                known[f"accuracy{when}"], known[f"reward{when}"] = score.accuracy, score.reward
        for step in metrics(path)[-1:]:
            known["drift"] = step.drift
        known["steps"] = _steps(path)
        known["state"] = state_of(path, info)
    except RunError as error:
        known["problem"] = str(error)
    return ListedRun(**known), settings


def _steps(path: Path) -> int:
    """Return the number of steps that a journal has whole lines of, less those that were taken
    back; esft verify checks what they say."""
    file = path / "journal.jsonl"
    try:
        *lines, _ = read_file(file).split(b"\n")
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror or error}") from error
    if not lines or not lines[0].startswith(b'{"format":'):
        raise RunError(f"{file} does not begin with a header")
    steps = 0
    for line in lines:
        back = re.match(rb'\{"back":(\d+)', line)
        steps = int(back[1]) if back else steps + line.startswith(b'{"step":')
    return steps


def state_of(path: Path, info: RunInfo) -> str:
    """Return how a run stands: as recorded, or stopped where it did not end and no process works
    on it, however it stopped."""
    if info.state != "running" or is_locked(path):
        return info.state
    # It may have ended since run.json was read.
    now = read_info(path).state
    return "stopped" if now == "running" else now


def size_of(path: Path) -> int:
    """Return the bytes of the files below a folder, without following links."""
    total = 0
    for folder, _, files in os.walk(path):
        for file in files:
            with suppress(OSError):  # it went meanwhile
                total += os.lstat(os.path.join(folder, file)).st_size
    return total
