"""Writing so that nothing is ever half there."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esft.errors import RunError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that more room would cure."""


def append_line(path: Path, line: str) -> None:
    """Append one line and have it on disk before returning; on failure the file is as before.

    Raises:
        RunError: if the disk is full or the file cannot be written.
    """
    with writing(path), open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            _write_all(file, (line + "\n").encode())
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(before)
            raise


def write_whole(path: Path, text: str) -> None:
    """Replace a file's content at once: the old one or the new one is there, never a mixture.

    Raises:
        RunError: if the disk is full or the file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            with open(part, "wb", buffering=0) as file:
                _write_all(file, text.encode())
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a RunError that says what can be done."""
    try:
        yield
    except OSError as error:
        full = error.errno in FULL_DISK
        hint = "make room on the disk" if full else "check that the folder exists and is yours"
        raise RunError(f"{path} cannot be written: {error.strerror or error}", hint=hint) from error


def _write_all(file, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
