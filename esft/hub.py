"""The hub: whether it can be reached, how far a download is, and no word of its libraries."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from contextvars import ContextVar
from functools import cache
from threading import Thread

Progress = Callable[[str, int, int], None]
"""What is downloaded, the megabytes that are here, and all of them."""

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)
_SECONDS = 2.0


@contextmanager
def showing_downloads(progress: Progress) -> Iterator[None]:
    """Tell `progress` how far downloads are that begin in the block."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


def is_reachable() -> bool:
    """Return whether the hub answers, asked once; False where HF_HUB_OFFLINE forbids to ask.

    Its library instead asks again and again, for half a minute.
    """
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and isinstance(answer_of(constants.ENDPOINT), int)


@cache
def answer_of(endpoint: str) -> int | str:
    """Return the status of any answer from an address, or why there was none in two seconds."""
    from huggingface_hub import get_session
    from huggingface_hub.errors import HTTPError

    found: list[int | str] = []

    def ask() -> None:
        try:
            found.append(get_session().head(endpoint, timeout=_SECONDS).status_code)
        except (HTTPError, OSError) as error:
            found.append(" ".join(str(error).split()) or type(error).__name__)

    # In a thread: looking up a name has no limit of time.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return found[0] if found else f"no answer within {_SECONDS:g} s"


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Have `datasets` look into its cache alone in the block where the hub cannot be reached."""
    import datasets
    from huggingface_hub import constants

    places = () if is_reachable() else (constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


@contextmanager
def silent() -> Iterator[None]:
    """Keep back what libraries write to stderr in the block: bars, warnings, lines of a log."""
    with redirect_stderr(io.StringIO()):
        yield


class DownloadBar:
    """What the library of the hub takes for a bar of tqdm, which shows nothing itself."""

    def __init__(self, *_: object, total: float | None = None, initial: float = 0, **facts) -> None:
        self.total, self.n, self._file = total, initial, str(facts.get("desc") or "a file")
        self._tell = _progress.get()

    def update(self, more: float = 1) -> None:
        self.n += more
        if self._tell is not None and self.total:
            here, whole = (round(size / 1e6) for size in (self.n, self.total))
            self._tell(f"downloading {self._file}, MB", here, whole)

    def __enter__(self) -> DownloadBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None  # set_description, refresh, close and what else a bar can
