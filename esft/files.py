"""Writing so that nothing is ever half there."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

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
            sync(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the system in the block into a RunError that says what can be done."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = is_full(error)
        hint = "make room on the disk" if full else "check that the folder exists and is yours"
        what = getattr(error, "strerror", None) or error
        raise RunError(f"{path} cannot be written: {what}", hint=hint) from error


def is_full(error: Exception) -> bool:
    """Return whether more room would cure an error of writing."""
    # safetensors writes the number of the system's error into its text only.
    return getattr(error, "errno", None) in FULL_DISK or any(
        f"(os error {number})" in str(error) for number in FULL_DISK
    )


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    if os.name == "nt" and path.is_dir():  # no folder can be opened there
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Return where esft keeps what it can make again.

    $ESFT_CACHE_DIR, else $XDG_CACHE_HOME/esft, else ~/.cache/esft.
    """
    own = os.environ.get("ESFT_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "esft"


def slug(text: str) -> str:
    """Return a text as a part of a file's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "run"


def _write_all(file, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
