"""Drifts and KL divergences that were measured before, of the same weights in the same way."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from esft import __version__
from esft.errors import RunError
from esft.files import cache_folder, write_whole


class DistanceCache:
    """A folder with a .json file for each measurement; it may be deleted any time.

    Args:
        folder: None takes distances/ in esft's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = cache_folder() / "distances" if folder is None else folder

    def path(self, *key: object) -> Path:
        """Return the file of a measurement; `repr` of `key` says all that can change it."""
        text = repr((__version__, *key))
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"

    def known(self, path: Path, fields: tuple[str, ...]) -> dict[str, object] | None:
        """Return a record, where it is there and has just these fields, in this order."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        whole = isinstance(found, dict) and tuple(found) == fields
        return found if whole else None

    def keep(self, path: Path, record: dict[str, object]) -> None:
        """Keep a record. A cache that cannot be written is done without."""
        with suppress(RunError):
            write_whole(path, json.dumps(record))
