"""How rows of a task are scored: what makes two evaluations the same one."""

import hashlib
from importlib.metadata import version
from pathlib import Path

import torch

from esft import __version__
from esft.rollout.cache import ScoreCache, Way, Weighed
from esft.rollout.results import RowResult
from esft.rollout.rollout import Rollout
from esft.tasks.task import Row


def way_of(rollout: Rollout, device: torch.device) -> Way:
    """Return the way in which `rollout` scores rows on a device, in this process."""
    threads = f"{torch.get_num_threads()} threads" if device.type == "cpu" else ""
    libraries = [f"{name} {version(name)}" for name in ("torch", "transformers")]
    return Way(
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
        weighed: the weights that are scored.
        way: how.
        rows: which rows.
    """

    def __init__(
        self, cache: ScoreCache, weighed: Weighed, way: Way, rows: tuple[Row, ...]
    ) -> None:
        self._cache = cache
        self._path = cache.path(weighed, way, rows)
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


def _hashes(source: str) -> tuple[str, ...]:
    """Return the hashes of a user's own program and of the rows beside it."""
    path = Path(source)
    if path.suffix not in (".py", ".jsonl"):
        return ()
    files = {path, path.with_suffix(".jsonl")}
    return tuple(
        hashlib.sha256(each.read_bytes()).hexdigest() for each in sorted(files) if each.is_file()
    )
