"""A journal read back: every line checked before anything is made of it."""

import binascii
import json
import re
from dataclasses import dataclass
from pathlib import Path

from esft.engine.journal import JOURNAL_FORMAT, JournalStep, chained, unpack
from esft.errors import JournalError

_MARK = ',"checksum":"'
_TAIL = re.compile(r'[0-9a-f]{16}"\}')


@dataclass(frozen=True, kw_only=True)
class JournalEnd:
    """The last line of a journal that was exported: what it must rebuild."""

    weights: str
    """Identity of the model after its last step."""
    best: int | None
    """The step with the best holdout reward; None where nothing says it."""


@dataclass(frozen=True, kw_only=True)
class JournalRecord:
    """What a journal holds, whole lines alone."""

    path: Path
    headers: tuple[tuple[int, dict[str, object]], ...]
    """(from step, settings): the first from step 1, others where a run was forced to change."""
    steps: tuple[JournalStep, ...]
    checksums: tuple[str, ...]
    """checksums[k] is that of the line of step k; of step 0, that of the first header."""
    checksum: str
    """Of the last whole line."""
    whole: int
    """Bytes of the whole lines."""
    torn: bool
    """Whether a last line, cut off half-way, follows them."""
    end: JournalEnd | None
    """None for the journal of a run folder."""

    @property
    def last(self) -> int:
        """The last step."""
        return len(self.steps)

    @property
    def header(self) -> dict[str, object]:
        """The settings that every step was made under."""
        return self.headers[0][1]

    def header_at(self, step: int) -> dict[str, object]:
        """Return the settings under which `step` was made."""
        return [header for since, header in self.headers if since <= max(1, step)][-1]


def read_journal(path: Path) -> JournalRecord:
    """Return what a journal holds.

    A last line that ends half-way is left out and reported by `torn`: it was being written
    when the machine stopped. Everything else must be as it was written.

    Raises:
        JournalError: if the file cannot be read, is empty, was written by a newer esft, or a line
            is not as it was written; with the number of the line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JournalError(
            f"{path} cannot be read: {error.strerror or error}",
            hint="expected the journal.jsonl of a run, or one that esft export --journal wrote",
        ) from error
    *lines, rest = data.split(b"\n")
    reading = _Reading(path)
    for line in lines:
        reading.line(line)
    if rest:
        reading.refuse_unless_torn(rest)
    return reading.record(whole=len(data) - len(rest), torn=bool(rest))


class _Reading:
    """The lines of a journal so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0
        self._checksum = ""
        self._headers: list[tuple[int, dict[str, object]]] = []
        self._steps: list[JournalStep] = []
        self._checksums: list[str] = []
        self._end: JournalEnd | None = None

    def line(self, line: bytes) -> None:
        """Take one whole line, without its newline."""
        self._number += 1
        body = self._body(line)
        record = json.loads(body)
        if self._end is not None:
            raise self._error("follows the line that ends the journal, expected no more lines")
        if not isinstance(record, dict):
            raise self._error("is no record")
        if "format" in record:
            self._take_header(record)
        elif not self._headers:
            raise self._error("is no header, expected one in the first line")
        elif "end" in record:
            self._take_end(record)
        else:
            self._take_step(record)

    def refuse_unless_torn(self, rest: bytes) -> None:
        """Raise JournalError if what follows the last newline was not cut off half-way."""
        self._number += 1
        # After a power cut some file systems leave zeros where bytes were to come.
        cut = rest.rstrip(b"\0")
        begins = cut[:1] in (b"", b"{") and cut.isascii()
        if not begins or (len(rest) > 1 and _is_whole(rest[:-1])):
            raise self._error("does not end as it was written")

    def record(self, *, whole: int, torn: bool) -> JournalRecord:
        """Return all that was read."""
        if not self._headers:
            raise JournalError(
                f"{self._path} {'ends in its first line' if torn else 'is empty'}, expected a "
                "header and a line a step",
                hint="take another copy of the journal",
            )
        return JournalRecord(
            path=self._path,
            headers=tuple(self._headers),
            steps=tuple(self._steps),
            checksums=tuple(self._checksums),
            checksum=self._checksum,
            whole=whole,
            torn=torn,
            end=self._end,
        )

    def _body(self, line: bytes) -> str:
        """Return a line without its checksum, which must be right."""
        try:
            text = line.decode("ascii")
        except UnicodeDecodeError:
            raise self._error("is not as it was written: it holds bytes of no journal") from None
        body, _, tail = text.rpartition(_MARK)
        if not _TAIL.fullmatch(tail):
            self._refuse_newer(text)
            raise self._error("has no checksum at its end, expected one in every line")
        body += "}"
        checksum = chained(self._checksum, body)
        if checksum != tail[:-2]:
            self._refuse_newer(text)
            raise self._error(
                f"is not as it was written: its checksum is {tail[:-2]}, expected {checksum} "
                "from the lines up to it"
            )
        self._checksum = checksum
        return body

    def _take_header(self, record: dict[str, object]) -> None:
        self._refuse_format(record.pop("format"))
        since = int(record.pop("from", 1))
        if since != len(self._steps) + 1:
            raise self._error(f"changes settings from step {since}, expected {self._next}")
        if not self._headers:
            self._checksums.append(self._checksum)
        self._headers.append((since, record))

    def _refuse_newer(self, line: str) -> None:
        """Raise JournalError if a line without a right checksum is the head of a newer format."""
        try:
            record = json.loads(line)
        except ValueError:
            return
        if self._number == 1 and isinstance(record, dict) and "format" in record:
            self._refuse_format(record["format"])

    def _refuse_format(self, version: object) -> None:
        if version != JOURNAL_FORMAT:
            raise JournalError(
                f"{self._path}: the journal has format {version!r}, expected {JOURNAL_FORMAT}",
                hint="a newer esft may have written it: pip install -U esft; if not, it is damaged",
            )

    def _take_step(self, record: dict) -> None:
        if record.get("step") != self._next:
            raise self._error(f"is of step {record.get('step')}, expected step {self._next}")
        try:
            step = JournalStep(
                step=record["step"],
                rewards=unpack(record["rewards"]),
                coefficients=unpack(record["coefficients"]),
                rows_at=record["rows"][0],
                rows_hash=record["rows"][1],
            )
        except (KeyError, IndexError, TypeError, ValueError, binascii.Error) as error:
            raise self._error(f"is no step: {error}") from error
        self._steps.append(step)
        self._checksums.append(self._checksum)

    def _take_end(self, record: dict) -> None:
        if record["end"] != len(self._steps):
            raise self._error(f"ends {record['end']} steps, expected {len(self._steps)}")
        self._end = JournalEnd(weights=str(record["weights"]), best=record["best"])

    @property
    def _next(self) -> int:
        return len(self._steps) + 1

    def _error(self, what: str) -> JournalError:
        return JournalError(
            f"{self._path}: line {self._number} {what}",
            hint="the journal is damaged: take another copy of it; the steps before that line are "
            "in a journal that ends with the line above",
        )


def lines_until(record: JournalRecord, step: int) -> str:
    """Return the text of a journal's lines up to that of `step`.

    Raises:
        ValueError: if it has no such step.
    """
    if not 0 <= step <= record.last:
        raise ValueError(f"step is {step}, expected 0 to {record.last}")
    count = step + sum(since <= max(1, step) for since, _ in record.headers)
    lines = record.path.read_text("ascii").split("\n")
    return "".join(line + "\n" for line in lines[:count])


def _is_whole(line: bytes) -> bool:
    """Return whether a line has a checksum and its closing brace behind it."""
    _, mark, tail = line.decode("ascii", "replace").rpartition(_MARK)
    return bool(mark and _TAIL.fullmatch(tail))
