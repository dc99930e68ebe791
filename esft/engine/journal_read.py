"""A journal read back: every line checked, then its steps made again."""

import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from esft.engine.drift import Drift
from esft.engine.journal import (
    CHANGING_FORMAT,
    JOURNAL_FORMAT,
    OWN,
    Back,
    JournalStep,
    chained,
    unpack,
)
from esft.engine.members import Member, population, with_coefficients
from esft.errors import JournalError
from esft.files import parse, read_file

_MARK = ',"checksum":"'
_TAIL = re.compile(r'[0-9a-f]{16}"\}')


@dataclass(frozen=True, kw_only=True)
class JournalEnd:
    """The last line of a journal that was exported: the identity of the model it must rebuild."""

    weights: str
    best: int | None  # the step with the best holdout reward; None where nothing says it


@dataclass(frozen=True, kw_only=True)
class JournalRecord:
    """What a journal holds, whole lines alone."""

    path: Path
    header: dict[str, object]
    steps: tuple[JournalStep, ...]
    checksums: tuple[str, ...]
    """checksums[k] is that of the line of step k; of step 0, that of the header."""
    lines: tuple[int, ...]
    """lines[k] is the number, from 1, of the line of step k; of step 0, that of the header."""
    backs: tuple[Back, ...]
    checksum: str  # of the last whole line
    whole: int  # bytes of the whole lines
    torn: bool  # whether a last line, cut off half-way, follows them
    end: JournalEnd | None  # None for the journal of a run folder

    @property
    def last(self) -> int:
        return len(self.steps)


class _Damage(Exception):
    """What is wrong with a line, as a sentence that the line begins."""


def read_journal(path: Path) -> JournalRecord:
    """Return what a journal holds.

    A last line that ends half-way, being written when the machine stopped, is left out and
    reported by `torn`. Everything else must be as it was written.

    Raises:
        JournalError: if the file cannot be read, is empty, was written by a newer esft, or a line
            is not as it was written; with the number of the line.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise JournalError(
            f"{path} cannot be read: {error.strerror or error}",
            hint="expected the journal.jsonl of a run, or one that esft export --journal wrote",
        ) from error
    *lines, rest = data.split(b"\n")
    _refuse_newer(path, data.partition(b"\n")[0])
    told = _Lines()
    try:
        for line in lines:
            told.take(line)
        if rest:
            _refuse_unless_torn(rest)
    except _Damage as damage:
        raise JournalError(
            f"{path}: line {len(told.checksums)} {damage}",
            hint="the journal is damaged: take another copy of it; the steps before that line are "
            "in a journal that ends with the line above",
        ) from damage.__cause__
    if told.header is None:
        raise JournalError(
            f"{path} {'ends in its first line' if rest else 'is empty'}, expected a header and a "
            "line a step",
            hint="take another copy of the journal",
        )
    return JournalRecord(
        path=path,
        header=told.header,
        steps=tuple(told.steps),
        checksums=tuple(told.checksums[number] for number in told.numbers),
        lines=tuple(told.numbers),
        backs=tuple(told.backs),
        checksum=told.checksums[-1],
        whole=len(data) - len(rest),
        torn=bool(rest),
        end=told.end,
    )


@dataclass
class _Lines:
    """What the lines of a journal say, taken one after the other."""

    header: dict[str, object] | None = None
    steps: list[JournalStep] = field(default_factory=list)
    end: JournalEnd | None = None
    backs: list[Back] = field(default_factory=list)
    checksums: list[str] = field(default_factory=lambda: [""])  # of no line, then of each line
    numbers: list[int] = field(default_factory=lambda: [1])  # of the lines of the steps

    def take(self, line: bytes) -> None:
        """Take the next line; _Damage if it is not as it was written."""
        record, checksum = _checked(line, self.checksums[-1])
        if self.end is not None:
            raise _Damage("follows the line that ends the journal, expected no more lines")
        last = len(self.steps)
        if self.header is None:
            if record.pop("format", None) is None:
                raise _Damage("is not a header, expected one in the first line")
            self.header = record
        elif "end" in record:
            if record["end"] != last:
                raise _Damage(f"ends {record['end']} steps, expected {last}")
            self.end = JournalEnd(weights=str(record["weights"]), best=record["best"])
        elif "back" in record:
            was = self.backs[-1].awd if self.backs else self.header["awd"]
            self.backs.append(_back(record, last, was))
            del self.steps[record["back"] :], self.numbers[record["back"] + 1 :]
        else:
            self.steps.append(_step(record, last + 1, "anneal" in self.header))
            self.numbers.append(len(self.checksums))
        self.checksums.append(checksum)


def lines_until(record: JournalRecord, step: int) -> str:
    """Return the text of a journal's lines up to that of `step`."""
    if not 0 <= step <= record.last:
        raise ValueError(f"step is {step}, expected 0 to {record.last}")
    lines = record.path.read_text("ascii").split("\n")
    return "".join(line + "\n" for line in lines[: record.lines[step]])


@dataclass(frozen=True, kw_only=True)
class MadeWith:
    """What a step is made with besides its coefficients: its own, else what the header says."""

    population: int
    antithetic: bool
    sigma: float
    alpha: float
    awd: float
    norm: str
    tau: float = 0.0


def made_with(step: JournalStep, header: Mapping[str, object]) -> MadeWith:
    """Return what a step is made with."""
    told = {key: header[key] for key in OWN if key in header} | dict(step.own)
    return MadeWith(**told)


def contributions(
    step: JournalStep, header: Mapping[str, object]
) -> tuple[list[Member], list[float]]:
    """Return the members of a step that got a coefficient, and their coefficients."""
    made = made_with(step, header)
    members = population(header["seed"], step.step, made.population, made.antithetic)
    return with_coefficients(members, step.coefficients)


def make_step(drift: Drift, step: JournalStep, header: Mapping[str, object]) -> None:
    """Make the step of a line of a journal, which is the next one: live, again, and on any rank."""
    if step.step != drift.steps + 1:
        raise ValueError(f"step is {step.step}, expected {drift.steps + 1}")
    made = made_with(step, header)
    rest = made.alpha, made.awd, made.norm, made.sigma, made.tau
    drift.step(*contributions(step, header), *rest)


def replay(
    drift: Drift, record: JournalRecord, to: int, on_step: Callable[[int], None] | None = None
) -> None:
    """Bring a drift from a step of the run, 0 included, to step `to`, bit for bit, no rollouts.

    `on_step` is called with each step made.
    """
    if not drift.steps <= to <= record.last:
        raise ValueError(f"to is {to}, expected {drift.steps} to {record.last}")
    for step in record.steps[drift.steps : to]:
        make_step(drift, step, record.header)
        if on_step is not None:
            on_step(step.step)


def _refuse_newer(path: Path, line: bytes) -> None:
    """Raise JournalError if a first line is the head of another format, whatever its checksum."""
    try:
        version = parse(line)["format"]
    except (ValueError, KeyError, TypeError):
        return
    if version not in range(JOURNAL_FORMAT, CHANGING_FORMAT + 1):
        raise JournalError(
            f"{path}: the journal has format {version!r}, expected {JOURNAL_FORMAT} to "
            f"{CHANGING_FORMAT}",
            hint="a newer esft may have written it: pip install -U esft; if not, it is damaged",
        )


def _checked(line: bytes, before: str) -> tuple[dict, str]:
    """Return what a line holds, and its checksum, which must follow from the one before."""
    try:
        text = line.decode("ascii")
    except UnicodeDecodeError:
        raise _Damage("is not as it was written: it holds bytes of no journal") from None
    body, _, tail = text.rpartition(_MARK)
    if not _TAIL.fullmatch(tail):
        raise _Damage("has no checksum at its end, expected one in every line")
    body += "}"
    checksum = chained(before, body)
    if checksum != tail[:-2]:
        raise _Damage(
            f"is not as it was written: its checksum is {tail[:-2]}, expected {checksum} "
            "from the lines up to it"
        )
    try:
        return parse(body), checksum
    except ValueError:
        raise _Damage("is not a record") from None


def _step(record: dict, number: int, annealed: bool) -> JournalStep:
    if "format" in record:
        raise _Damage("changes the settings, expected those of the first line: a run has one set")
    if record.get("step") != number:
        raise _Damage(f"is of step {record.get('step')}, expected step {number}")
    try:
        rows_at, rows_hash = record["rows"]
        own = {name: record[name] for name in OWN if name in record}
        own |= {name: float(record[name]) for name in ("sigma", "alpha") if annealed}
        return JournalStep(
            step=number,
            rewards=unpack(record["rewards"]),
            coefficients=unpack(record["coefficients"]),
            rows_at=rows_at,
            rows_hash=rows_hash,
            kl=unpack(record["kl"]) if "kl" in record else None,
            silent=record.get("silent"),
            own=own,
        )
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise _Damage(f"is not a step: {error}") from error


def _back(record: dict, last: int, was: float) -> Back:
    step = record["back"]
    if type(step) is not int or not 0 <= step < last:
        raise _Damage(f"goes back to step {step!r}, expected one from 0 to {last - 1}")
    try:
        measured = {name: record.get(name) for name in ("kl", "kl_se")}
        values = {"awd": float(record["awd"]), "drift": float(record["drift"])}
        return Back(step=last, to=step, was=was, **values, **measured)
    except (KeyError, TypeError, ValueError) as error:
        raise _Damage(f"takes no steps back: {error}") from error


def _refuse_unless_torn(rest: bytes) -> None:
    """Raise _Damage if what follows the last newline was not cut off half-way."""
    # After a power cut some file systems leave zeros where bytes were to come.
    cut = rest.rstrip(b"\0")
    begins = cut[:1] in (b"", b"{") and cut.isascii()
    # A line without its newline alone was cut too; one with another byte there was damaged.
    _, mark, tail = rest[:-1].decode("ascii", "replace").rpartition(_MARK)
    if not begins or (mark and _TAIL.fullmatch(tail)):
        raise _Damage("does not end as it was written")
