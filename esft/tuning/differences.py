"""What is not as it was when a run began."""

from collections.abc import Iterator
from dataclasses import dataclass

from esft.engine.journal_read import JournalRecord
from esft.recipe.check import shown
from esft.recipe.paths import own_files
from esft.recipe.settings import Recipe, settings_of
from esft.tuning.run_info import journal_header, rows_info
from esft.tuning.session import Session

FREE = (
    "anchor.store",
    "anchor.drift_store",
    "model.id",
    "model.trust_remote_code",
    "run.dir",
    "run.snapshot_every",
    "task.data_dir",
)
"""Settings that change no bit of a run; what model and rows hold is compared by hash."""

FIXED = (
    "anchor.drift",
    "model.dtype",
    "model.exclude",
    "model.include",
    "noise_version",
    "search.seed",
)
"""What cannot change within a run, not even by force: the journal holds for one value alone."""

_HEADER = {
    "dtype": "model.dtype",
    "include": "model.include",
    "exclude": "model.exclude",
    "seed": "search.seed",
    "population": "search.population",
    "antithetic": "search.antithetic",
    "sigma": "search.sigma",
    "alpha": "search.alpha",
    "awd": "anchor.awd",
    "norm": "anchor.norm",
    "drift": "anchor.drift",
    "base": "base model",
    "noise_version": "noise_version",
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that changed."""

    what: str
    """A setting, or what else it is."""
    was: str
    now: str

    @property
    def forcible(self) -> bool:
        """Whether a run can go on with it."""
        return self.what not in FIXED

    def __str__(self) -> str:
        return f"{self.what} is {self.now}, the run has {self.was}"


def recipe_differences(recipe: Recipe, info: dict) -> list[Difference]:
    """Return which settings are others than those of run.json, apart from FREE ones."""
    was, now = info["settings"], settings_of(recipe)
    return [
        Difference(what=key, was=shown(was.get(key)), now=shown(now[key]))
        for key in now
        if key not in FREE and was.get(key) != now[key]
    ]


def session_differences(session: Session, info: dict, record: JournalRecord) -> list[Difference]:
    """Return what else differs: base model, rows, files of own tasks, and what the journal says."""
    return [
        *_header_differences(session, record),
        *_hash_differences("rows", info["rows"], rows_info(session)),
        *_hash_differences("file", info["files"], own_files(session.recipe)),
    ]


def _header_differences(session: Session, record: JournalRecord) -> Iterator[Difference]:
    was, now = record.header, journal_header(session)
    for key, what in _HEADER.items():
        old, new = was.get(key), now[key]
        if (list(new) if isinstance(new, tuple) else new) != old:
            yield Difference(what=what, was=_text(old), now=_text(new))


def _hash_differences(what: str, was: dict, now: dict) -> Iterator[Difference]:
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            yield Difference(
                what=f"{what} {name}", was=_text(was.get(name)), now=_text(now.get(name))
            )


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case {"n": count, "hash": found}:
            return f"{count} rows of hash {found}"
        case str() if len(value) == 64:
            return f"sha256 {value[:16]}..."
        case _:
            return shown(value)
