"""Evaluations of a task on the model as it is, in parts that are kept for the next time."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from esft.rollout.cache import Cache
from esft.rollout.encode import EncodedRows
from esft.rollout.results import Evaluation, RowResult
from esft.rollout.rollout import Rollout
from esft.tasks.task import Row

PART = 64
"""Rows of a part, at least: what an interruption loses at most."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """Which weights are evaluated."""

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
    platform: tuple[str, ...]
    """Device, threads and versions."""
    code: tuple[str, ...]
    """Hashes of the files that grade: a user's own program and the rows beside it."""


def scoring_settings(rollout: Rollout, device: torch.device) -> ScoringSettings:
    """Return how `rollout` scores rows on a device, in this process."""
    threads = f"{torch.get_num_threads()} threads" if device.type == "cpu" else ""
    libraries = [f"{name} {version(name)}" for name in ("torch", "transformers")]
    program = Path(rollout.task.source)
    files = [program, program.with_suffix(".jsonl")] if program.suffix == ".py" else [program]
    return ScoringSettings(
        task=rollout.task.name,
        scoring=rollout.scoring,
        reward=rollout.reward,
        max_new_tokens=rollout.max_new_tokens,
        batch=rollout.batches.size,
        platform=(device.type, threads, *libraries),
        code=tuple(
            hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
            if file.suffix in (".py", ".jsonl") and file.is_file()
        ),
    )


@dataclass(frozen=True)
class EvaluationCache:
    """The parts of evaluations of one model in one way."""

    cache: Cache
    model: ModelVersion
    settings: ScoringSettings

    def get(self, rows: tuple[Row, ...]) -> list[RowResult] | None:
        """Return the results of a part, or None where they are not known."""
        records = self.cache.get(("rows", self.model, self.settings, rows))
        return None if records is None else [RowResult.from_record(record) for record in records]

    def put(self, rows: tuple[Row, ...], results: list[RowResult]) -> None:
        """Keep the results of a part, unless a grader failed: it may not do so again."""
        if all(result.failure is None for result in results):
            records = [result.to_record() for result in results]
            self.cache.put(("rows", self.model, self.settings, rows), records)


def evaluate(
    rollout: Rollout,
    encoded: EncodedRows,
    cache: EvaluationCache | None = None,
    ready: Callable[[], Rollout] | None = None,
) -> Evaluation:
    """Evaluate rows on the model as it is, in parts that are always the same.

    Args:
        rollout: scores the rows that `cache` does not know.
        encoded: at least one row.
        cache: of this model and this way of scoring; an interrupted evaluation goes on from it.
        ready: called once before rows are scored, and returns what scores them instead of
            `rollout`; not called where all are known.
    """
    size = rollout.batches.size
    part, total = max(PART, size), len(encoded.rows)
    results: list[RowResult] = []
    for start in range(0, total, part):
        rows = encoded.take(list(range(start, min(total, start + part))))
        scored = None if cache is None else cache.get(rows.rows)
        if scored is None:
            if ready is not None:
                rollout, ready = ready(), None
            scored = rollout.evaluate(rows)
            # Once memory ran out, results come from batches of another size than the cache says.
            if cache is not None and rollout.batches.size == size:
                cache.put(rows.rows, scored)
        results += scored
    return Evaluation(tuple(results))
