"""The run folder: what a run leaves behind, never half there."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from esft.engine.journal import Journal
from esft.engine.journal_read import JournalRecord, read_journal
from esft.errors import JournalError, RunError
from esft.files import append_line, remove_abandoned, whole_folder, write_whole
from esft.rollout.typed import json_text
from esft.runs.records import RecordedRow, RecordedScore, RunInfo, read_info, rows_path
from esft.runs.steps import ProbeRecord, StepMetrics


class RunFolder:
    """The files of one run; made by `create_run`, or opened again by `open_run`."""

    def __init__(self, path: Path, info: RunInfo) -> None:
        self.path = path
        self.info = info
        self.model_path = path / "model"
        self.recipe_path = path / "recipe.toml"
        self.journal_path = path / "journal.jsonl"
        self.followers: list[Callable[[StepMetrics | RecordedScore], None]] = []
        """Given each line of metrics.jsonl and evals.jsonl, once it is written."""

    @property
    def kept_model(self) -> Path | None:
        """Where the run keeps its tuned model; None where it is not to keep one."""
        return self.model_path if self.info.settings["run.keep_model"] else None

    def journal(self, record: JournalRecord | None = None) -> Journal:
        """Return the journal, to go on behind what it holds; None where that is nothing."""
        if record is None:
            return Journal(self.journal_path, "", append_line)
        rest = record.checksums[-1], record.backs
        return Journal(self.journal_path, record.checksum, append_line, *rest)

    def read_journal(self) -> JournalRecord:
        """Return what the journal holds; JournalError if it is damaged, or is not the one that
        run.json says was begun, up to the step whose model was saved and as it was then."""
        record, problem = read_journal(self.journal_path), None
        saved, over = self.info.saved, self.info.state == "finished"
        begun = {0: self.info.journal}
        if saved is not None:
            begun |= {saved.step: saved.journal, **dict([saved.end] if saved.end else [])}
        step = max(begun)
        if record.last < step or (over and (record.last > step or record.torn)):
            torn = " and a line that was cut off" if record.torn else ""
            problem = f"has {counted(record.last)}{torn}, expected {step}, which were saved"
        for at, checksum in begun.items():
            if at <= record.last and record.checksums[at] != checksum:
                problem = f"is another journal: step {at} has checksum {record.checksums[at]}, "
                problem += f"expected {checksum}"
        if problem is not None:
            raise JournalError(
                f"{record.path} {problem}, as run.json says",
                hint="put the journal of this run back: take another copy of it",
            )
        return record

    def record_probe(self, probe: ProbeRecord) -> None:
        """Write probe.json: by what sigma was chosen."""
        write_whole(self.path / "probe.json", json_text(probe, indent=2) + "\n")

    def record_metrics(self, metrics: StepMetrics) -> None:
        """Append to metrics.jsonl what a plot of this step needs."""
        append_line(self.path / "metrics.jsonl", json_text(metrics))
        self._tell(metrics)

    def record_evaluation(self, score: RecordedScore, rows: Sequence[RecordedRow]) -> None:
        """Append to evals.jsonl, after writing the rows behind it to evals/."""
        lines = [json_text(row) + "\n" for row in rows]
        write_whole(rows_path(self.path, score), "".join(lines))
        append_line(self.path / "evals.jsonl", json_text(score))
        self._tell(score)

    def _tell(self, record: StepMetrics | RecordedScore) -> None:
        for follow in self.followers:
            follow(record)

    def update_info(self, **changes: object) -> None:
        """Replace values of run.json."""
        self.info = replace(self.info, **changes)
        write_whole(self.path / "run.json", json_text(self.info, indent=2) + "\n")


def create_run(path: Path, recipe: str, info: RunInfo, header: dict[str, object]) -> RunFolder:
    """Make a run folder; it appears by rename once recipe (TOML), run.json and journal are there.

    RunError if it cannot be written; TakenError if it is not empty, or was filled meanwhile.
    """
    with whole_folder(path) as part:
        write_whole(part / "recipe.toml", recipe)
        run = RunFolder(part, info)
        journal = run.journal()
        journal.begin(header)
        run.update_info(journal=journal.checksum)
    return RunFolder(path, run.info)


def open_run(path: Path) -> RunFolder:
    """Open the folder of a run that was made before; raise RunError as `read_info`."""
    return RunFolder(path, read_info(path))


def counted(steps: int) -> str:
    """Return a number of steps in words."""
    return f"{steps} step{'' if steps == 1 else 's'}"


def free_on_disk(path: Path) -> int:
    """Return the bytes that are free where `path` is, or would be."""
    return shutil.disk_usage(_nearest(path)).free


def _nearest(path: Path) -> Path:
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def require_room(path: Path, nbytes: int) -> None:
    """Raise RunError if files of so many bytes would not fit on the disk.

    What killed processes left half-written in `path` makes room first.
    """
    remove_abandoned(path.absolute())
    free = free_on_disk(path)
    if free < nbytes:
        raise RunError(
            f"{_nearest(path)} has {free / 1e6:,.0f} MB free, expected {nbytes / 1e6:,.0f} MB for "
            "the tuned model and the snapshots of its drift",
            hint="make room, or name a --run-dir on another disk",
        )
