"""Evaluations that were made before: of the same weights, on the same rows, in the same way."""

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from esft.errors import RunError
from esft.files import append_line, cache_folder, writing
from esft.rollout.results import RowResult, result_of
from esft.tasks.task import Row


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """Which weights are scored."""

    base: str
    """Identity of the base model."""
    journal: str
    """Checksum of the journal's line of the step; "" for the base model itself."""
    load: str | None = None
    """None as they are, else how they were quantized: "nf4" or "int8"."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How rows are scored, as far as it can change a result."""

    task: str
    scoring: str
    reward: str | None
    max_new_tokens: int
    batch: int
    """Sequences at a time: half-precision answers can depend on it."""
    place: tuple[str, ...]
    """Device, threads and versions."""
    files: tuple[str, ...]
    """Hashes of the files of a task of the user's own."""


class ScoreCache:
    """A folder with a .jsonl file for each evaluation, a line a row; it may be deleted any time.

    Args:
        folder: None takes evals/ in esft's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = cache_folder() / "evals" if folder is None else folder

    def path(self, weighed: Weighed, way: Way, rows: Iterable[Row]) -> Path:
        """Return the file of an evaluation."""
        text = repr((weighed, way, [asdict(row) for row in rows]))
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.jsonl"

    def known(self, path: Path) -> list[RowResult]:
        """Return the results that a file holds: of the first rows, as far as it goes."""
        try:
            *lines, _ = path.read_text(encoding="utf-8").split("\n")
            return [result_of(json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError, KeyError):
            return []

    def add(self, path: Path, results: list[RowResult]) -> None:
        """Append results. A cache that cannot be written is done without."""
        with suppress(RunError), writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            append_line(path, "\n".join(json.dumps(asdict(result)) for result in results))
