"""What was measured before is not measured again: one file a measurement, written whole."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from esft import __version__
from esft.errors import RunError
from esft.files import cache_folder, write_whole


class Cache:
    """A folder of records by key; it may be deleted at any time, and nothing else deletes it.

    Two processes may use it at once: a file is there whole or not at all. Its first line is a
    checksum of its name and its content, so that a torn, changed or moved file is not used.

    Args:
        folder: None takes measured/ in esft's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = cache_folder() / "measured" if folder is None else folder

    def get(self, key: object) -> Any | None:
        """Return the record kept under `key`, whose `repr` says all that can change it."""
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
        text = repr((__version__, key))
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def _checksum(path: Path, content: str) -> str:
    return hashlib.sha256(f"{path.name}\n{content}".encode()).hexdigest()
