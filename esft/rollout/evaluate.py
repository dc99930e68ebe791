"""Evaluations of a task on the model as it is, in parts that are kept for the next time."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from esft import __version__
from esft.errors import RunError
from esft.files import cache_folder, write_whole
from esft.recipe.settings import file_hashes
from esft.rollout.encode import EncodedRow
from esft.rollout.results import Evaluation, RowResult
from esft.rollout.rollout import Rollout
from esft.typed import from_json, to_json

PART = 64
"""Rows of a part, at least: what an interruption loses at most."""


class Cache:
    """A folder of records by key; it may be deleted at any time, and nothing else deletes it.

    Two processes may use it at once: a file is there whole or not at all. Its first line is a
    checksum of its name and its content, so that a torn, changed or moved file is not used.

    Args:
        folder: None takes measured/ in esft's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = cache_folder() / "measured" if folder is None else folder

    def get(self, key: object) -> Any | None:
        """Return the record kept under `key`, whose `repr` says all that can change it."""
        path = self._path(key)
        try:
            checksum, content = path.read_text(encoding="utf-8").split("\n", 1)
        except (OSError, ValueError):
            return None
        return json.loads(content) if checksum == _checksum(path, content) else None

    def put(self, key: object, record: Any) -> None:
        """Keep a record that JSON can hold. A cache that cannot be written is done without."""
        path, content = self._path(key), json.dumps(record)
        with suppress(RunError):
            write_whole(path, f"{_checksum(path, content)}\n{content}")

    def _path(self, key: object) -> Path:
        text = repr((__version__, key))
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def _checksum(path: Path, content: str) -> str:
    return hashlib.sha256(f"{path.name}\n{content}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """Which weights are evaluated."""

    base: str
    """Identity of the base model."""
    journal: str
    """Checksum of the journal's line of the step; "" for the base model itself."""
    load: str | None = None
    """None as they are, else how they were quantized: "nf4" or "int8"."""


def scoring_settings(rollout: Rollout) -> tuple[object, ...]:
    """Return all of `rollout` and this process that can change how it scores a row."""
    task, device = rollout.task, rollout.model.device.type
    threads = f"{torch.get_num_threads()} threads" if device == "cpu" else ""
    libraries = [f"{name} {version(name)}" for name in ("torch", "transformers")]
    # Half-precision answers can depend on the batch.
    scored = (rollout.scoring, rollout.reward, rollout.max_new_tokens, rollout.batches.size)
    return (task.name, *scored, device, threads, *libraries, file_hashes(task.source))


def evaluate(
    rollout: Rollout,
    encoded: Sequence[EncodedRow],
    cache: Cache,
    model: ModelVersion,
    ready: Callable[[], Rollout] | None = None,
) -> Evaluation:
    """Evaluate rows on the model as it is, in parts that are always the same.

    Args:
        rollout: scores the rows that `cache` does not know.
        encoded: at least one row.
        cache: what was scored before; an interrupted evaluation goes on from it.
        model: which weights those are.
        ready: called once before rows are scored, and returns what scores them instead of
            `rollout`; not called where all are known.
    """
    size, settings = rollout.batches.size, scoring_settings(rollout)
    part = max(PART, size)
    results: list[RowResult] = []
    for start in range(0, len(encoded), part):
        some = encoded[start : start + part]
        key = ("rows", model, settings, [one.row for one in some])
        records = cache.get(key)
        if records is None:
            if ready is not None:
                rollout, ready = ready(), None
            scored = rollout.evaluate(some)
            # Not once memory ran out: they come from batches of another size than the key says.
            # Nor where a grader failed: it may not do so again.
            graded = all(result.failure is None for result in scored)
            if graded and rollout.batches.size == size:
                cache.put(key, to_json(scored))
        else:
            scored = [from_json(RowResult, record) for record in records]
        results += scored
    return Evaluation(tuple(results))
