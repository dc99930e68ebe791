"""Writing so that nothing is ever half there: the one writer of whole files and folders.

All of it raises RunError, with a hint, where the disk is full or something cannot be written.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from esft.errors import RunError

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MARK = ".partial"


def append_line(path: Path, line: str) -> None:
    """Append one line and have it on disk before returning; on failure the file is as before."""
    with writing(path), open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            _write_all(file, (line + "\n").encode())
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(before)
            raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file's content at once: the old one or the new one is there, never a mixture."""
    with whole_file(path) as part, open(part, "wb", buffering=0) as file:
        _write_all(file, content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Lend an empty file beside `path`, then rename it to `path`; remove it on any error.

    Of two processes that write `path` at once, the later one wins, and neither fails. The umask
    takes its share of `mode` away.
    """
    part = _beside(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
            allowed = part.stat().st_mode
            yield part
            part.chmod(allowed)  # safetensors puts a file of its owner's alone in its place
            sync(part)
            os.replace(part, path)
            sync(path.parent)  # without it, a power cut may still take the name back
        finally:  # also on Ctrl-C
            part.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Lend a new folder beside `folder`, then rename it to `folder`; remove it on any error.

    One that is there and not empty is refused, or with `replace` makes way.
    """
    if not replace:
        require_free(folder)
    part = _beside(folder)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        try:
            yield part
            for path in part.rglob("*"):
                if path.is_file():
                    # safetensors writes for the owner alone.
                    path.chmod(part.stat().st_mode & 0o666)
                sync(path)
            sync(part)
            old = _beside(folder)
            if folder.exists():  # not every system renames over a folder
                if replace:
                    folder.rename(old)
                else:
                    folder.rmdir()  # fails where another process has filled it by now
            part.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
            sync(folder.parent)
        except BaseException:  # also Ctrl-C
            shutil.rmtree(part, ignore_errors=True)
            raise


def require_free(folder: Path) -> None:
    """Raise RunError if a folder exists and is not empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError(
            f"{folder} exists, expected a new or an empty folder",
            hint="name another folder, or move that one away",
        )


def remove_partial(parent: Path) -> None:
    """Remove what killed processes left half-written in `parent`; no other may be writing there."""
    for path in parent.glob(f".*.*{_MARK}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the system in the block into a RunError that says what can be done."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors writes the number of the system's error into its text only.
        full = getattr(error, "errno", None) in _FULL_DISK or any(
            f"(os error {number})" in str(error) for number in _FULL_DISK
        )
        hint = "make room on the disk" if full else "check that the folder exists and is yours"
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path} cannot be written: {reason}", hint=hint) from error


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
    """Return where esft keeps what it can make again."""
    if own := os.environ.get("ESFT_CACHE_DIR"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esft"


def slug(text: str) -> str:
    """Return a text as a part of a file's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "run"


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_MARK}")


def _write_all(file, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
