"""A folder that appears whole, or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esft.errors import RunError
from esft.files import sync

_MARK = ".partial"


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Lend a new folder beside `folder`, then put it in its place; remove it on any error.

    Args:
        folder: what is to appear, by rename, once everything in it is on the disk.
        replace: whether a folder of that name makes way.

    Raises:
        RunError: if `folder` exists, is not empty, and must not be replaced.
    """
    if not replace:
        require_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(folder)
    partial.mkdir()
    try:
        yield partial
        _settle(partial)
        _put(partial, folder)
        sync(folder.parent)
    except BaseException:  # also Ctrl-C
        shutil.rmtree(partial, ignore_errors=True)
        raise


def require_free(folder: Path) -> None:
    """Raise RunError if a folder exists and is not empty."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise RunError(
            f"{folder} exists, expected a new or an empty folder for the model",
            hint="name another folder, or move that one away",
        )


def remove_partial(parent: Path) -> None:
    """Remove what a process that was killed left of such folders in `parent`."""
    for path in parent.glob(f".*{_MARK}"):
        shutil.rmtree(path, ignore_errors=True)


def _put(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    old = _beside(folder)
    folder.rename(old)  # not every system renames over a folder
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}{_MARK}"


def _settle(folder: Path) -> None:
    """Bring every byte of `folder` to the disk, readable by whoever may read the folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(folder.stat().st_mode & 0o666)  # safetensors writes for the owner alone
            sync(path)
    sync(folder)
