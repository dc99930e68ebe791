"""Writing so that nothing is ever half there: the one writer of whole files and folders."""

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

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that more room would cure."""

_MARK = ".partial"


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


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file's content at once: the old one or the new one is there, never a mixture.

    Raises:
        RunError: if the disk is full or the file cannot be written.
    """
    with whole_file(path) as part, open(part, "wb", buffering=0) as file:
        _write_all(file, content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Lend an empty file beside `path`, then put it in its place; remove it on any error.

    No two lent files have the same name: of two processes that write `path` at once, the later
    one wins, and neither fails.

    Args:
        path: what is to appear, by rename, once its content is on the disk; its folder is made.
        mode: permissions, less those that the umask takes away.

    Raises:
        RunError: if the disk is full or the file cannot be written.
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
    """Lend a new folder beside `folder`, then put it in its place; remove it on any error.

    Args:
        folder: what is to appear, by rename, once everything in it is on the disk.
        replace: whether a folder of that name makes way.

    Raises:
        RunError: if `folder` exists, is not empty and must not be replaced, or cannot be written.
    """
    if not replace:
        require_free(folder)
    part = _beside(folder)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        try:
            yield part
            _sync_all(part)
            _put(part, folder, replace=replace)
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


def remove_partial(parent: Path, name: str = "*") -> None:
    """Remove what killed processes left half-written in `parent`, of all names or of one.

    Only for those who know that no other process is writing there: its files would go too.
    """
    for path in parent.glob(f".{name}.*{_MARK}"):
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
        full = is_full(error)
        hint = "make room on the disk" if full else "check that the folder exists and is yours"
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path} cannot be written: {reason}", hint=hint) from error


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


def _sync_all(folder: Path) -> None:
    """Bring every byte of `folder` to the disk, readable by whoever may read the folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(folder.stat().st_mode & 0o666)  # safetensors writes for the owner alone
        sync(path)
    sync(folder)


def _put(part: Path, folder: Path, *, replace: bool) -> None:
    old = None
    if folder.exists():  # not every system renames over a folder
        if replace:
            old = folder.rename(_beside(folder))
        else:
            folder.rmdir()  # fails where another process has filled it by now
    part.rename(folder)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
