"""The files of a run folder, read back without loading torch."""

import json
from pathlib import Path

from esft.errors import RunError

RUN_FORMAT = 2
"""Of run.json: 2 since runs can be resumed."""


def read_info(path: Path) -> dict[str, object]:
    """Return the content of the run.json of a run folder.

    Raises:
        RunError: if it cannot be read, or another format of esft wrote it.
    """
    file = path / "run.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or error}",
            hint="name the folder of a run; esft runs lists them. The journal alone rebuilds its "
            "model too: esft replay FILE --out DIR",
        ) from error
    version = info.get("format") if isinstance(info, dict) else None
    if version != RUN_FORMAT:
        older = isinstance(version, int) and version < RUN_FORMAT
        raise RunError(
            f"{file} has format {version!r}, expected {RUN_FORMAT}",
            hint="it was made before runs could be resumed; its journal still rebuilds its model: "
            f"esft replay {path / 'journal.jsonl'} --out DIR"
            if older
            else "a newer esft may have written it: pip install -U esft",
        )
    return info


def read_lines(path: Path) -> list[dict]:
    """Return the records of a file of JSON lines, without a last one that was cut off.

    A file that is not there has none.

    Raises:
        RunError: if a whole line is no record, with its number.
    """
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [_record(path, number, line) for number, line in enumerate(lines, start=1)]


def _record(path: Path, number: int, line: bytes) -> dict:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise _damaged(path, number, f"is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise _damaged(path, number, "is no record")
    return record


def _damaged(path: Path, number: int, what: str) -> RunError:
    return RunError(
        f"{path}: line {number} {what}", hint="take another copy of it, or move it away"
    )
