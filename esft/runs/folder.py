"""The run folder: what a run leaves behind, never half there."""

import json
import shutil
from pathlib import Path

from esft.engine.journal import Journal
from esft.errors import RunError
from esft.files import append_line, whole_folder, write_whole
from esft.runs.records import RUN_FORMAT, finite, read_info, rows_path


class RunFolder:
    """The files of one run; made by `create_run`, or opened again by `open_run`."""

    def __init__(self, path: Path, info: dict[str, object]) -> None:
        self.path = path
        self.info = dict(info)  # content of run.json
        self.model_path = path / "model"
        self.recipe_path = path / "recipe.toml"
        self.journal_path = path / "journal.jsonl"

    def journal(self, checksum: str) -> Journal:
        """Return the journal, to go on behind the line with `checksum`."""
        return Journal(self.journal_path, checksum, append_line)

    def record_metrics(self, metrics: dict[str, object]) -> None:
        """Append to metrics.jsonl what a plot of this step needs."""
        append_line(self.path / "metrics.jsonl", json.dumps(finite(metrics)))

    def record_evaluation(self, summary: dict[str, object], rows: list[dict[str, object]]) -> None:
        """Append to evals.jsonl, after writing the rows behind it to evals/."""
        file = rows_path(self.path, summary["task"], summary["step"])
        write_whole(file, "".join(json.dumps(finite(row)) + "\n" for row in rows))
        append_line(self.path / "evals.jsonl", json.dumps(finite(summary)))

    def update_info(self, **changes: object) -> None:
        """Replace values of run.json."""
        self.info.update(changes)
        write_whole(self.path / "run.json", json.dumps(self.info, indent=2) + "\n")


def create_run(
    path: Path, recipe: str, info: dict[str, object], header: dict[str, object]
) -> RunFolder:
    """Make a run folder; it appears by rename once recipe (TOML), run.json and journal are there.

    RunError if it cannot be written, is not empty, or appeared in the meantime.
    """
    info = {"format": RUN_FORMAT, **info}
    with whole_folder(path) as part:
        write_whole(part / "recipe.toml", recipe)
        run = RunFolder(part, info)
        run.update_info()
        run.journal("").begin(header)
    return RunFolder(path, info)


def open_run(path: Path) -> RunFolder:
    """Open the folder of a run that was made before; raise RunError as `read_info`."""
    return RunFolder(path, read_info(path))


def require_room(path: Path, nbytes: int) -> None:
    """Raise RunError if files of so many bytes would not fit on the disk."""
    path = path.absolute()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free
    if free < nbytes:
        raise RunError(
            f"{nearest} has {free / 1e6:,.0f} MB free, expected {nbytes / 1e6:,.0f} MB for the "
            "tuned model and the snapshots of its drift",
            hint="make room, or name a --run-dir on another disk",
        )
