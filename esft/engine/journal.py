"""The journal: one checksummed line a step, from which the weights can be rebuilt."""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

JOURNAL_FORMAT, ANNEALED_FORMAT, CHANGING_FORMAT = 1, 2, 3
"""The second is that of annealed runs, whose steps carry sigma and alpha; the third that of runs
whose steps may carry more, or be taken back: a version of esft that would make them otherwise
refuses it."""

OWN = ("population", "antithetic", "sigma", "alpha", "awd", "norm", "tau")
"""What a step may carry of its own; else what the header says of it holds."""
_CHANGING = ("budget", "stages", "tau")  # keys of the header


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
    own: Mapping[str, object] = field(default_factory=dict)
    """What it was made with by other than the header, of `OWN`; an annealed run's sigma and alpha
    always."""
    kl: tuple[float, ...] | None = None
    """How far each member is from the anchor, in nats a token, where that took from its reward;
    kept as float32."""
    silent: str | None = None
    """Which of its rows told members nothing, where the rows of later steps depend on it; see
    `esft.tuning.screen`."""


@dataclass(frozen=True, kw_only=True)
class Back:
    """Steps that were taken back, since the last of them was above a budget; errors are standard
    errors, None stands for what was not measured or not finite."""

    step: int  # the last that was made
    to: int  # the one that the run went on from
    was: float  # lambda until then
    awd: float  # and from there on
    kl: float | None  # from the base model, in nats a token
    kl_se: float | None
    drift: float  # ||D||


class Journal:
    """Writes a file of JSON lines: a header, then one line a step, each with a checksum.

    A checksum covers its line and, through the checksum before it, all lines above: equal
    last checksums mean equal journals. `checksum` is that of the last line of the file at
    `path`, "" where it holds none; `of_step` that of the last step that was not taken back,
    `checksum` where nothing else is said; `append` writes one line durably or not at all.
    """

    def __init__(
        self,
        path: Path,
        checksum: str,
        append: Callable[[Path, str], None],
        of_step: str | None = None,
        backs: tuple[Back, ...] = (),
    ) -> None:
        self._path = path
        self._append = append
        self.checksum = checksum
        self.of_step = checksum if of_step is None else of_step
        self.backs = backs

    def begin(self, header: dict[str, object]) -> None:
        """Record what a replay needs besides the steps."""
        version = ANNEALED_FORMAT if "anneal" in header else JOURNAL_FORMAT
        version = CHANGING_FORMAT if header.keys() & set(_CHANGING) else version
        self._write({"format": version, **header})
        self.of_step = self.checksum

    def append(self, step: JournalStep) -> None:
        """Record a step; it counts as done once this returns."""
        record = {
            "step": step.step,
            "rewards": pack(step.rewards),
            "coefficients": pack(step.coefficients),
            "rows": [step.rows_at, step.rows_hash],
        }
        record |= step.own
        if step.kl is not None:
            record["kl"] = pack(step.kl)
        if step.silent is not None:
            record["silent"] = step.silent
        self._write(record)
        self.of_step = self.checksum

    def back(self, back: Back, of_step: str) -> None:
        """Record that steps are taken back; what follows is made from the step whose line has the
        checksum `of_step`."""
        measured = {"kl": back.kl, "kl_se": back.kl_se, "drift": back.drift}
        known = {name: value for name, value in measured.items() if value is not None}
        self._write({"back": back.to, "awd": back.awd, **known})
        self.of_step, self.backs = of_step, (*self.backs, back)

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
