"""Evaluations that were made before: of the same weights, on the same rows, in the same way."""

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from esft import __version__
from esft.errors import RunError
from esft.files import append_line, cache_folder, write_whole, writing
from esft.rollout.results import RowResult, result_of
from esft.rollout.rollout import Rollout
from esft.tasks.task import Row


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """Which weights are scored."""

    base: str
    """Identity of the base model."""
    journal: str
    """Checksum of the journal's line of the step; "" for the base model itself."""
    load: str | None = None
    """None as they are, else how they were quantized: "nf4" or "int8"."""


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
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


class Cache:
    """What was measured before: a file a key, written whole, with a checksum.

    It may be deleted any time; what is damaged is measured anew.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: object) -> object | None:
        """Return the value of a key, as JSON gives it; None where it is not there or damaged."""
        try:
            checksum, text = self._path(key).read_text(encoding="utf-8").split("\n", 1)
        except (OSError, ValueError):
            return None
        return json.loads(text) if checksum == _sha256(text) else None

    def put(self, key: object, value: object) -> None:
        """Keep a value; `repr` of `key` says all that can change it.

        A cache that cannot be written is done without.
        """
        text = json.dumps(value)
        with suppress(RunError):
            write_whole(self._path(key), f"{_sha256(text)}\n{text}")

    def _path(self, key: object) -> Path:
        return self._folder / f"{_sha256(repr((__version__, key)))}.json"


class EvaluationCache:
    """A folder with a .jsonl file for each evaluation, a line a row; it may be deleted any time.

    Args:
        folder: None takes evals/ in esft's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = cache_folder() / "evals" if folder is None else folder

    def path(self, model: ModelVersion, settings: ScoringSettings, rows: Iterable[Row]) -> Path:
        """Return the file of an evaluation."""
        text = repr((model, settings, [asdict(row) for row in rows]))
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


def scoring_settings(rollout: Rollout, device: torch.device) -> ScoringSettings:
    """Return the settings with which `rollout` scores rows on a device, in this process."""
    threads = f"{torch.get_num_threads()} threads" if device.type == "cpu" else ""
    libraries = [f"{name} {version(name)}" for name in ("torch", "transformers")]
    return ScoringSettings(
        task=rollout.task.name,
        scoring=rollout.scoring,
        reward=rollout.reward,
        max_new_tokens=rollout.max_new_tokens,
        batch=rollout.batches.size,
        place=(device.type, threads, f"esft {__version__}", *libraries),
        files=_hashes(rollout.task.source),
    )


class Remembered:
    """The memory of one evaluation: a file of the cache.

    Args:
        cache: where it is.
        model: the weights that are scored.
        settings: how.
        rows: which rows.
    """

    def __init__(
        self,
        cache: EvaluationCache,
        model: ModelVersion,
        settings: ScoringSettings,
        rows: tuple[Row, ...],
    ) -> None:
        self._cache = cache
        self._path = cache.path(model, settings, rows)
        self._open = True

    def known(self) -> list[RowResult]:
        """Return the results of the first rows, as far as they are known."""
        return self._cache.known(self._path)

    def add(self, results: list[RowResult]) -> None:
        """Keep the results of the next rows, up to the first part in which a grader failed.

        A grader that ran out of time may not do so again.
        """
        self._open = self._open and all(result.failure is None for result in results)
        if self._open:
            self._cache.add(self._path, results)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _hashes(source: str) -> tuple[str, ...]:
    """Return the hashes of a user's own program and of the rows beside it."""
    path = Path(source)
    if path.suffix not in (".py", ".jsonl"):
        return ()
    files = {path, path.with_suffix(".jsonl")}
    return tuple(
        hashlib.sha256(each.read_bytes()).hexdigest() for each in sorted(files) if each.is_file()
    )
