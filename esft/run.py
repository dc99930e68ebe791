"""The run folder: what a run leaves behind, never half there."""

import json
import math
import os
import re
import shutil
import tempfile
from pathlib import Path

from esft.engine.journal import Journal
from esft.errors import RunError
from esft.files import append_line, write_whole, writing

RUNS = Path("runs")


class RunFolder:
    """The files of one run; made by `create_run`."""

    def __init__(self, path: Path, info: dict[str, object]) -> None:
        self.path = path
        self._info = dict(info)

    @property
    def model_path(self) -> Path:
        """Where the tuned model goes."""
        return self.path / "model"

    def start_journal(self, header: dict[str, object]) -> Journal:
        """Return the journal of this run, with its first line written."""
        return Journal(self.path / "journal.jsonl", header, append_line)

    def record_metrics(self, metrics: dict[str, object]) -> None:
        """Append to metrics.jsonl what a plot of this step needs."""
        append_line(self.path / "metrics.jsonl", json.dumps(finite(metrics)))

    def record_evaluation(self, summary: dict[str, object], rows: list[dict[str, object]]) -> None:
        """Append to evals.jsonl, after writing the rows behind it to evals/."""
        folder = self.path / "evals"
        with writing(folder):
            folder.mkdir(exist_ok=True)
        name = f"{_slug(str(summary['task']))}-{summary['step']}.jsonl"
        write_whole(folder / name, "".join(json.dumps(finite(row)) + "\n" for row in rows))
        append_line(self.path / "evals.jsonl", json.dumps(finite(summary)))

    def update_info(self, **changes: object) -> None:
        """Replace values of run.json."""
        self._info.update(changes)
        write_whole(self.path / "run.json", json.dumps(self._info, indent=2) + "\n")


def finite(record: dict[str, object]) -> dict[str, object]:
    """Return a flat record with None for NaN and infinities, which JSON lacks."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


def choose_run_path(named: str | None, task: str, model: str) -> Path:
    """Return where a new run goes: as named, or the next free runs/<task>-<model>-<number>.

    Raises:
        RunError: if the named folder exists and is not empty.
    """
    if named is not None:
        path = Path(named)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(
                f"run folder {path} exists, expected a new name: a run is never overwritten",
                hint="name another --run-dir, or move the old one away",
            )
        return path
    stem = f"{_slug(Path(task).stem)}-{_slug(Path(model).name.removesuffix('.gguf'))}"
    number = 1
    while (RUNS / f"{stem}-{number}").exists():
        number += 1
    return RUNS / f"{stem}-{number}"


def create_run(path: Path, recipe: str, info: dict[str, object]) -> RunFolder:
    """Make a run folder; it appears by rename once recipe.toml and run.json are whole.

    Args:
        path: the folder, which does not exist or is empty.
        recipe: the resolved recipe, as TOML.
        info: content of run.json.

    Raises:
        RunError: if it cannot be written, or appeared in the meantime.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            part.chmod(0o755)
            write_whole(part / "recipe.toml", recipe)
            write_whole(part / "run.json", json.dumps(info, indent=2) + "\n")
            os.replace(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return RunFolder(path, info)


def require_room(path: Path, nbytes: int) -> None:
    """Refuse a run whose tuned model would not fit on the disk.

    Raises:
        RunError: with the bytes needed and free.
    """
    nearest = path.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    free = shutil.disk_usage(nearest).free
    if free < nbytes:
        raise RunError(
            f"{nearest} has {free / 1e9:.2f} GB free, expected {nbytes / 1e9:.2f} GB for the "
            "tuned model",
            hint="make room, or name a --run-dir on another disk",
        )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "run"
