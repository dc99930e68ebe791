"""KL divergences that were measured before: of the same weights, on the same prompts."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from esft.base_cache import cache_folder
from esft.errors import RunError
from esft.evals.score_cache import Way, Weighed
from esft.files import write_whole, writing
from esft.kl.divergence import TOP

WAYS = ("base_to_tuned", "tuned_to_base")
"""KL(p0||p) and KL(p||p0)."""


class KlCache:
    """A folder with a .json file for each task on each step; it may be deleted any time.

    Args:
        folder: None takes kl/ in esft's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = cache_folder() / "kl" if folder is None else folder

    def path(
        self, weighed: Weighed, way: Way, prompts: list[tuple[int, ...]], tokens: int, seed: int
    ) -> Path:
        """Return the file of a divergence."""
        text = repr((weighed, way, prompts, tokens, seed, TOP))
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"

    def known(self, path: Path) -> dict[str, dict] | None:
        """Return the estimates of both ways as eval.json has them, where they are there."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        whole = isinstance(found, dict) and tuple(found) == WAYS
        return found if whole else None

    def keep(self, path: Path, found: dict[str, dict]) -> None:
        """Keep the estimates of both ways. A cache that cannot be written is done without."""
        with suppress(RunError):
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(found))
