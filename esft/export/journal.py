"""A step of a run as a journal alone, which rebuilds it with the base model."""

from dataclasses import dataclass
from pathlib import Path

from esft.engine.journal import Journal
from esft.engine.journal_read import lines_until
from esft.errors import RunError
from esft.files import write_whole
from esft.runs.records import best_step, scores
from esft.tuning.rebuild import RebuildOptions, Source, rebuild, step_of
from esft.tuning.watcher import Watcher


@dataclass(frozen=True, kw_only=True)
class ExportedJournal:
    """A file that holds a journal up to a step."""

    step: int
    weights: str  # identity of the model that it rebuilds
    model: str  # the base model, as the run named it
    size: int  # bytes


def export_journal(
    source: Source,
    at: str,
    out: Path,
    watcher: Watcher,
    options: RebuildOptions,
) -> ExportedJournal:
    """Write the journal up to a step, closed with what it must rebuild: whole, or not at all.

    Args:
        at: "best", "last" or the number of a step.
        out: the file, which is not there yet.
        options: how the step is rebuilt, where its weights are not on record; with `from_base`, in
            any case.

    Raises:
        EsftError: if there is no such step, it cannot be rebuilt, or the file is there already or
            cannot be written.
    """
    if out.exists():
        raise RunError(
            f"{out} exists, expected the name of a new file for the journal",
            hint="name another file, or move that one away",
        )
    step = step_of(source, at)
    weights = None if options.from_base else source.weights_of(step)
    if weights is None:  # the run kept the identity of its last step alone
        weights = rebuild(source, at, watcher, options).weights
    lines: list[str] = []
    end = Journal(out, source.record.checksums[step], lambda _, line: lines.append(line))
    if source.run is None:
        best = source.best if source.best is not None and source.best <= step else None
    else:
        best = best_step([score for score in scores(source.run.path) if score.step <= step])
    end.end(step, weights, best)
    text = lines_until(source.record, step) + "".join(f"{line}\n" for line in lines)
    write_whole(out, text)
    named = str(source.record.header["model"])
    return ExportedJournal(step=step, weights=weights, model=named, size=len(text))
