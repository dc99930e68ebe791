"""One process at a time works on a run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from esft.errors import RunError
from esft.files import writing

_PATIENCE = 1.0
"""Seconds to wait: `esft runs` looks at a lock for a moment."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run folder inside the block. The system lets go when the process ends, however.

    Raises:
        RunError: if another process holds it, or the folder cannot be written.
    """
    lock = FileLock(path / ".lock")
    with writing(path):
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            raise RunError(
                f"run {path} is in use: another process is working on it",
                hint="wait until it ends, or stop it with Ctrl-C in its terminal",
            ) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds a run folder; False where that cannot be seen."""
    file = path / ".lock"
    if not file.exists():
        return False
    try:
        with FileLock(file).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False
