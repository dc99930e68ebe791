"""Evaluations of a task on the model as it is, in parts that are kept for the next time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import torch

from esft.rollout.cache import Cache
from esft.rollout.encode import EncodedRow
from esft.rollout.results import Evaluation, RowResult
from esft.rollout.rollout import Rollout
from esft.rollout.typed import from_json, to_json
from esft.tasks.own import file_hashes

PART = 64
"""Rows of a part, at least: what an interruption loses at most."""
_SCORING = ("torch", "transformers", "tokenizers", "math-verify")
"""The libraries that a score depends on."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """Which weights are evaluated."""

    base: str
    """Identity of the base model's weights."""
    parts: Mapping[str, str]
    """What else changes an answer: config, tokenizer, template and stop tokens, as hashes."""
    journal: str
    """Checksum of the journal's line of the step; "" for the base model itself."""
    load: str | None = None
    """None as they are, else how they were quantized: "nf4" or "int8"."""


def scoring_settings(rollout: Rollout) -> tuple[object, ...]:
    """Return all of `rollout` and this process that can change how it scores a row."""
    task, device = rollout.task, rollout.model.device.type
    threads = f"{torch.get_num_threads()} threads" if device == "cpu" else ""
    libraries = [f"{name} {version(name)}" for name in _SCORING]
    # Half-precision answers can depend on the batch.
    scored = (rollout.scoring, rollout.reward, rollout.max_new_tokens, rollout.batches.size)
    scored += (rollout.temperature,)
    # Graders of a user's file differ by what they are said to do.
    graded = (task.name, task.grading, file_hashes(task.source))
    return (*graded, *scored, device, threads, *libraries)


def evaluate(
    rollout: Rollout,
    encoded: Sequence[EncodedRow],
    cache: Cache,
    model: ModelVersion,
    ready: Callable[[], Rollout] | None = None,
    score: Callable[[Sequence[Sequence[EncodedRow]]], Iterable[list[RowResult]]] | None = None,
) -> Evaluation:
    """Evaluate rows on the model as it is, in parts that are always the same.

    All rows come from batches of one size: where memory ran out they are scored once more.

    Args:
        rollout: scores the rows that `cache` does not know.
        encoded: at least one row.
        cache: what was scored before; an interrupted evaluation goes on from it.
        model: which weights those are.
        ready: called once before rows are scored, and returns what scores them instead of
            `rollout`; not called where all are known.
        score: scores parts, each as `rollout` does; None: `rollout`, one after the other.
    """
    size, settings = rollout.batches.size, scoring_settings(rollout)
    part = max(PART, size)
    parts = [encoded[start : start + part] for start in range(0, len(encoded), part)]
    keys = [("rows", model, settings, [(one.row, one.draws) for one in some]) for some in parts]
    known = [cache.get(key) for key in keys]
    missing = [some for some, records in zip(parts, known, strict=True) if records is None]
    if missing and ready is not None:
        rollout = ready()
    scored = iter(map(rollout.evaluate, missing) if score is None else score(missing))
    results: list[RowResult] = []
    for key, records in zip(keys, known, strict=True):
        if records is not None:
            results += [from_json(RowResult, record) for record in records]
            continue
        now = next(scored)
        # Not once memory ran out: they come from batches of another size than the key says.
        # Nor where a grader failed: it may not do so again.
        if all(result.failure is None for result in now) and rollout.batches.size == size:
            cache.put(key, to_json(now))
        results += now
    if rollout.batches.size < size:
        return evaluate(rollout, encoded, cache, model, score=score)
    return Evaluation(tuple(results))
