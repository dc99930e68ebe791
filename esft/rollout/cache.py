"""What esft keeps in its cache so as not to make it twice: figures, base weights, kernels."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

import esft
from esft.errors import RunError
from esft.files import cache_folder, write_whole, writing

KINDS = {
    "measured": "what esft tune and eval measured",
    "bases": 'base weights for [anchor] store = "disk"',
    "kernels": "passes over weights, compiled for this CPU",
}
"""The folders of the cache, and what is in them."""
_OWN = re.compile(
    r"[0-9a-f]{64}\.(json|safetensors)|\.[0-9a-f]{64}\..+\.partial|numba_passes\..+\.nb[ci]"
)
_MEASURING = ("stats", "engine", "tasks", "models", "rollout", "evals")
"""The packages whose code makes figures."""


@dataclass(frozen=True, kw_only=True)
class CachedKind:
    """What the cache has of one kind."""

    kind: str  # of KINDS
    files: int
    nbytes: int


class Cache:
    """A folder of records by key; nothing but `clear_cache` deletes it, and that at any time.

    Two processes may use it at once: a file is there whole or not at all. Its first line is a
    checksum of its name and its content, so that a torn, changed or moved file is not used.

    Args:
        folder: None takes measured/ in esft's cache.
        code: the hash of the code that makes what is kept; None takes that of this esft.
    """

    def __init__(self, folder: Path | None = None, code: str | None = None) -> None:
        self._folder = cache_folder() / "measured" if folder is None else folder
        self._code = code_hash() if code is None else code

    def get(self, key: object) -> Any | None:
        """Return the record kept under `key`, whose `repr` says all but code that can change it."""
        path = self._path(key)
        try:
            checksum, content = path.read_text(encoding="utf-8").split("\n", 1)
        except (OSError, ValueError):
            return None
        return json.loads(content) if checksum == _checksum(path, content) else None

    def put(self, key: object, record: Any) -> None:
        """Keep a record that JSON can hold. A cache that cannot be written is done without."""
        path, content = self._path(key), json.dumps(record)
        with suppress(RunError):
            write_whole(path, f"{_checksum(path, content)}\n{content}")

    def _path(self, key: object) -> Path:
        text = repr((self._code, key))
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


@cache
def code_hash() -> str:
    """Return the sha256 of the version of esft and of the sources that make figures."""
    root = Path(esft.__file__).parent
    digest = hashlib.sha256(esft.__version__.encode())
    for file in sorted(file for package in _MEASURING for file in (root / package).rglob("*.py")):
        digest.update(f"\0{file.relative_to(root).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def cached_kinds() -> tuple[CachedKind, ...]:
    """Return what the cache has, kind by kind."""
    sizes = {kind: [size for _, size in _files(kind)] for kind in KINDS}
    return tuple(
        CachedKind(kind=kind, files=len(of_kind), nbytes=sum(of_kind))
        for kind, of_kind in sizes.items()
    )


def clear_cache() -> int:
    """Remove all that esft keeps in its cache, and nothing else; return how many bytes that freed.

    A process that measures meanwhile does without; one that writes base weights is waited for; one
    that maps them goes on until its next step, and can be resumed.
    """
    freed = 0
    for kind in KINDS:
        folder = cache_folder() / kind
        if not folder.is_dir():
            continue
        with writing(folder), FileLock(folder / ".lock"):
            for path, size in _files(kind):
                path.unlink(missing_ok=True)
                freed += size
    return freed


def _files(kind: str) -> Iterator[tuple[Path, int]]:
    """Yield the files of one kind that esft wrote, with their sizes."""
    for path in (cache_folder() / kind).rglob("*"):
        with suppress(FileNotFoundError):  # another process may remove it
            if _OWN.fullmatch(path.name) and path.is_file():
                yield path, path.stat().st_size


def _checksum(path: Path, content: str) -> str:
    return hashlib.sha256(f"{path.name}\n{content}".encode()).hexdigest()
