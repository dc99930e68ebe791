"""The journal: one checksummed line a step, from which the weights can be rebuilt."""

import base64
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

JOURNAL_FORMAT, ANNEALED_FORMAT = 1, 2
"""The second is that of annealed runs, whose steps carry sigma and alpha: a version of esft that
would make them with those of the header refuses it."""


@dataclass(frozen=True, kw_only=True)
class JournalStep:
    """What step `step`, counted from 1, did, as far as rebuilding and auditing it needs."""

    step: int
    rewards: tuple[float, ...]
    """Mean reward of each member, in their order; kept as float32."""
    coefficients: tuple[float, ...]
    """What each member's noise was weighed with; NaN for a member that got none; float32."""
    rows_at: int  # position of the row sampler before the step
    rows_hash: str  # of what they ask and how answers to them are graded, in order
    sigma: float | None = None  # of an annealed run; else those of the header hold
    alpha: float | None = None
    kl: tuple[float, ...] | None = None
    """How far each member is from the anchor, in nats a token, where that took from its reward;
    kept as float32."""
    silent: str | None = None
    """Which of its rows told members nothing, where the rows of later steps depend on it; see
    `esft.tuning.screen`."""


class Journal:
    """Writes a file of JSON lines: a header, then one line a step, each with a checksum.

    A checksum covers its line and, through the checksum before it, all lines above: equal
    last checksums mean equal journals. `checksum` is that of the last line of the file at
    `path`, "" where it holds none; `append` writes one line durably or not at all.
    """

    def __init__(self, path: Path, checksum: str, append: Callable[[Path, str], None]) -> None:
        self._path = path
        self._append = append
        self.checksum = checksum

    def begin(self, header: dict[str, object]) -> None:
        """Record what a replay needs besides the steps."""
        version = ANNEALED_FORMAT if "anneal" in header else JOURNAL_FORMAT
        self._write({"format": version, **header})

    def append(self, step: JournalStep) -> None:
        """Record a step; it counts as done once this returns."""
        record = {
            "step": step.step,
            "rewards": pack(step.rewards),
            "coefficients": pack(step.coefficients),
            "rows": [step.rows_at, step.rows_hash],
        }
        if step.alpha is not None:
            record |= {"sigma": step.sigma, "alpha": step.alpha}
        if step.kl is not None:
            record["kl"] = pack(step.kl)
        if step.silent is not None:
            record["silent"] = step.silent
        self._write(record)

    def end(self, steps: int, weights: str, best: int | None) -> None:
        """Close a journal that leaves its run folder, see `JournalEnd`."""
        self._write({"end": steps, "weights": weights, "best": best})

    def _write(self, record: dict[str, object]) -> None:
        body = json.dumps(record, separators=(",", ":"))
        checksum = chained(self.checksum, body)
        self._append(self._path, f'{body[:-1]},"checksum":"{checksum}"}}')
        self.checksum = checksum


def chained(before: str, body: str) -> str:
    """Return the checksum of a line, given the one of the line above ("" for the first)."""
    return hashlib.sha256((before + body).encode()).hexdigest()[:16]


def pack(values: tuple[float, ...]) -> str:
    """Return the values as little-endian float32 in base64."""
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def unpack(text: str) -> tuple[float, ...]:
    """Return the values that `pack` wrote, as float32 holds them."""
    return tuple(np.frombuffer(base64.b64decode(text, validate=True), "<f4").tolist())


def as_recorded(coefficients: list[float | None]) -> tuple[float, ...]:
    """Return coefficients as the journal holds them: float32, NaN for none.

    A step uses these, so that a replay from the journal makes the same bits.
    """
    return unpack(pack(tuple(math.nan if c is None else c for c in coefficients)))
