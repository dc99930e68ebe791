"""Whether the files of a run folder are whole and agree with each other."""

from pathlib import Path

from esft.engine.journal_read import JournalRecord
from esft.errors import EsftError, JournalError, RunError
from esft.recipe.settings import Recipe
from esft.runs.folder import RunFolder
from esft.runs.records import evaluation, metrics, rows_path, summaries
from esft.runs.snapshots import Snapshots
from esft.stats.intervals import mean_and_error
from esft.tuning.differences import recipe_differences

DAMAGE = (EsftError, OSError, LookupError, TypeError, ValueError, AttributeError)
"""What reading a damaged file can raise: a value may be missing, or of another kind."""

COPY = "take another copy of it"

_STATES = ("running", "finished", "stopped", "failed")
_KEYS = ("batches", "files", "model", "places", "rows", "settings", "state", "threads", "versions")


def check_info(info: dict) -> str:
    """Return what run.json says of the run.

    Raises:
        RunError: if it lacks something.
    """
    lacking = [key for key in _KEYS if key not in info]
    if info.get("state") == "finished" and not info.get("saved"):
        lacking.append("saved")
    if lacking:
        raise RunError(f"run.json lacks {', '.join(lacking)}", hint=COPY)
    if info["state"] not in _STATES:
        raise RunError(
            f"run.json has state {info['state']!r}, expected one of {', '.join(_STATES)}", hint=COPY
        )
    return f"format {info['format']}, state {info['state']}"


def check_recipe(recipe: Recipe, info: dict) -> str:
    """Say that a recipe is that of run.json.

    Raises:
        RunError: with what differs.
    """
    changed = recipe_differences(recipe, info)
    if changed:
        raise RunError("; ".join(map(str, changed)), hint="put it back as it was")
    return "loads and agrees with run.json"


def check_journal(record: JournalRecord, info: dict | None) -> str:
    """Say how much a journal holds; where `info` is there, it must be the journal of that.

    Raises:
        JournalError: if steps are missing that run.json says were saved, or it is another journal.
    """
    if info is not None:
        _refuse_other_steps(record, info)
        base = record.header["base"]
        if base != info["model"]["base"]:
            raise JournalError(
                f"{record.path} is of the base model {base[:16]}..., expected "
                f"{info['model']['base'][:16]}..., as run.json says",
                hint=COPY,
            )
    cut = "; its last line was cut off, esft resume makes that step again" if record.torn else ""
    return f"{counted(record.last)}, line by line as written{cut}"


def check_metrics(run: RunFolder, last: int | None) -> str:
    """Say which steps metrics.jsonl has.

    Args:
        run: its info may be empty, where run.json is damaged.
        last: the journal's last step; None where it is damaged.

    Raises:
        RunError: if a line is damaged, or the steps are not those of the journal.
    """
    file, steps = run.metrics_path, [line.get("step") for line in metrics(run.path)]
    cut = _cut_off(file, run)
    if last is None:
        return f"{counted(len(steps))}{cut}; the journal cannot say whether these are all"
    _refuse_steps_outside(file, steps, 1, last)
    # A kill between the two lines of a step leaves that of the journal alone.
    expected = last if _finished(run) else last - 1
    lost = sorted(set(range(1, expected + 1)) - set(steps))
    if lost:
        raise RunError(f"{file} lacks step {lost[0]}, expected 1 to {expected}", hint=COPY)
    without = f", step {last} not yet" if last and last not in steps else ""
    return f"{counted(len(steps))}{without}{cut}"


def check_evaluations(run: RunFolder, last: int | None) -> str:
    """Say how many evaluations there are; arguments as `check_metrics`.

    Raises:
        RunError: if a line is damaged, its rows are not there, or give another accuracy.
    """
    file, found = run.evaluations_path, summaries(run.path)
    cut = _cut_off(file, run)
    for summary in found:
        _refuse_other_rows(run, summary)
    if last is not None:
        _refuse_steps_outside(file, [each["step"] for each in found], 0, last)
    measured = {each["step"] for each in found if each["role"] == "target"}
    if _finished(run):
        for step in (0, run.info["saved"]["step"]):
            if step not in measured:
                raise RunError(f"{file} lacks the target task at step {step}", hint=COPY)
    return f"{len(found)} evaluations, each with its rows{cut}"


def check_snapshots(run: RunFolder, record: JournalRecord) -> str | None:
    """Say which snapshots there are; None where there is none.

    Raises:
        RunError: with those that are damaged or belong to another journal.
    """
    folder = run.path / "drift"
    snapshots, bad = Snapshots(folder), []
    steps = sorted(snapshots.steps())
    _refuse_steps_outside(folder, steps, 1, record.last)
    for step in steps:
        try:
            snapshots.read(step, record.checksums[step])
        except DAMAGE as error:
            bad.append(str(error))
    if bad:
        raise RunError("; ".join(bad), hint="remove it: the journal makes its steps again")
    listed = ", ".join(map(str, steps))
    return f"good and of this journal: step {listed}" if steps else None


def counted(steps: int) -> str:
    """Return a number of steps in words."""
    return f"{steps} step{'' if steps == 1 else 's'}"


def _finished(run: RunFolder) -> bool:
    return run.info.get("state") == "finished"


def _refuse_other_steps(record: JournalRecord, info: dict) -> None:
    saved = info.get("saved")
    step = saved["step"] if saved else 0
    over = info["state"] == "finished"
    if record.last < step or (over and (record.last > step or record.torn)):
        torn = " and a line that was cut off" if record.torn else ""
        raise JournalError(
            f"{record.path} has {counted(record.last)}{torn}, expected {step}, which run.json "
            "says were saved",
            hint=COPY,
        )
    if saved and record.checksums[step] != saved["journal"]:
        raise JournalError(
            f"{record.path} is another journal: step {step} has checksum "
            f"{record.checksums[step]}, expected {saved['journal']}, as run.json says",
            hint=COPY,
        )


def _refuse_other_rows(run: RunFolder, summary: dict) -> None:
    found = evaluation(run.path, summary)
    accuracy, _ = mean_and_error([float(row.correct) for row in found.results])
    if accuracy != found.accuracy:
        raise RunError(
            f"{rows_path(run.path, summary['task'], summary['step'])} has accuracy {accuracy:g}, "
            f"expected {found.accuracy:g}, as evals.jsonl says",
            hint=COPY,
        )


def _refuse_steps_outside(file: Path, steps: list, first: int, last: int) -> None:
    for step in steps:
        if not isinstance(step, int) or not first <= step <= last:
            raise RunError(
                f"{file} has step {step!r}, expected {first} to {last}, as in the journal",
                hint=COPY,
            )


def _cut_off(file: Path, run: RunFolder) -> str:
    """Say that a file's last line was cut off, where it was and may be."""
    if not file.exists() or file.read_bytes()[-1:] in (b"", b"\n"):
        return ""
    if _finished(run):
        raise RunError(f"{file} ends in the middle of a line, expected whole lines", hint=COPY)
    return "; its last line was cut off"
