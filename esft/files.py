"""Writing so that nothing is ever half there: the one writer of whole files and folders.

What writes raises RunError, with a hint, where the disk is full or something cannot be written.
"""

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from esft.errors import RunError, TakenError

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MARK, _LOCK = ".partial", ".lock"


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
    """Lend an empty file near `path`, then rename it to `path`; remove it on any error.

    Of two processes that write `path` at once, the later one wins, and neither fails. The umask
    takes its share of `mode` away.
    """
    with writing(path), _held_folder(path) as held:
        part = held / "new"
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        allowed = part.stat().st_mode
        yield part
        part.chmod(allowed)  # safetensors puts a file of its owner's alone in its place
        sync(part)
        os.replace(part, path)
        sync(path.parent)  # without it, a power cut may still take the name back


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Lend a new folder near `folder`, then rename it to `folder`; remove it on any error.

    One that is there and not empty, or is filled meanwhile, is refused (TakenError), or with
    `replace` makes way.
    """
    if not replace:
        require_free(folder)
    with writing(folder), _held_folder(folder) as held:
        part = held / "new"
        part.mkdir()
        yield part
        for path in part.rglob("*"):
            if path.is_file():
                # safetensors writes for the owner alone.
                path.chmod(part.stat().st_mode & 0o666)
            sync(path)
        sync(part)
        if replace and os.path.lexists(folder):  # also a link to nowhere
            folder.rename(held / "old")
        try:
            if folder.exists():
                folder.rmdir()  # not every system renames over a folder
            part.rename(folder)
        except OSError:
            require_free(folder)  # another process may have filled it by now
            raise
        sync(folder.parent)


@contextmanager
def _held_folder(target: Path) -> Iterator[Path]:
    """Lend a hidden folder beside `target`, which is this process's alone; remove it after."""
    from filelock import FileLock  # 0.1 s, a third of `esft --help`

    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent)
    while True:
        held = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{_MARK}")
        lock = FileLock(held / _LOCK)
        with ExitStack() as stack:  # also on Ctrl-C, from before there is a folder
            for _ in range(2):  # again, where Ctrl-C falls into the first
                stack.callback(shutil.rmtree, held, ignore_errors=True)
            stack.callback(lock.release)
            held.mkdir()
            try:
                lock.acquire()
            except FileNotFoundError:  # removed: another process saw the lock before it was held
                continue
            except OSError:  # a file system without locks, where nobody takes it for abandoned
                pass
            yield held
            return


def remove_abandoned(parent: Path) -> None:
    """Remove what killed processes left half-written in `parent`; what a living one holds stays."""
    from filelock import FileLock

    for held in parent.glob(f".*.*{_MARK}"):
        with suppress(OSError):  # Timeout, of a lock that is held, is one too
            if (held / _LOCK).is_file():
                with FileLock(held / _LOCK).acquire(timeout=0):
                    shutil.rmtree(held, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder and what is in it at once, links but not what they lead to."""
    with writing(folder), _held_folder(folder) as held:
        folder.rename(held / "old")  # killed from here on, its rest goes as abandoned
        shutil.rmtree(held / "old")


def require_free(folder: Path) -> None:
    """Raise TakenError if a folder exists and is not empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise TakenError(
            f"{folder} exists, expected a new or an empty folder",
            hint="name another folder, or move that one away",
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the system in the block into a RunError that says what can be done."""
    from safetensors import SafetensorError

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


def _write_all(file, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def read_file(path: Path) -> bytes:
    """Return what a file holds; OSError also where it is none: a pipe would be waited for."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a file")
    return path.read_bytes()


def parse(text: str | bytes) -> Any:
    """Return what a JSON text holds; ValueError if it is none, or nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None
