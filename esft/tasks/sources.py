"""Where rows come from: a folder of .jsonl files, or a dataset of the Hugging Face hub."""

import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from esft.errors import TaskError
from esft.tasks.task import HubSource, LocatedRow


@dataclass(frozen=True, kw_only=True)
class FolderRows:
    """The rows of one task in a data folder, in files <file>.<split>.jsonl."""

    folder: Path
    file: str
    fix: str

    def where(self, split: str) -> str:
        return str(self._path(split))

    def has(self, split: str) -> bool:
        return self._path(split).is_file()

    def rows(self, split: str) -> Iterator[LocatedRow]:
        path = self._path(split)
        if not self.folder.is_dir():
            raise TaskError(
                f"{self.folder} is not a folder, expected one with {path.name}",
                hint=f"correct --data-dir (or ESFT_DATA_DIR), or {self.fix}",
            )
        if not path.is_file():
            files = self.folder.glob(f"{self.file}.*.jsonl")
            others = ", ".join(sorted(file.name for file in files))
            has = f"of this task it has {others}" if others else "it has no file of this task"
            raise TaskError(
                f"{self.folder} has no {path.name}; {has}",
                hint=f"put {path.name} there, name another folder with --data-dir, or {self.fix}",
            )
        yield from json_lines(path, self.fix)

    def _path(self, split: str) -> Path:
        return self.folder / f"{self.file}.{split}.jsonl"


def json_lines(path: Path, fix: str) -> Iterator[LocatedRow]:
    """The objects of a JSON Lines file; blank lines are skipped, and still counted.

    Raises:
        TaskError: the file cannot be read or has no rows, or a line is not an object; `fix` is
            the end of each hint.
    """
    empty = True
    try:
        with path.open("rb") as lines:  # bytes end at LF alone, text also at CR; U+2028 never does
            for number, line in enumerate(lines, start=1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    empty = False
                    where = f"{path} line {number}"
                    yield where, _parse(where, text.rstrip(), fix)
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror or error}", hint=fix) from error
    if empty:
        raise TaskError(
            f"{path} is empty, expected one JSON object a line", hint=f"fill the file, or {fix}"
        )


def _parse(where: str, line: bytes, fix: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
        if isinstance(value, dict):
            return value
        wrong = reprlib.repr(value)
    except UnicodeDecodeError as error:
        wrong = f"not UTF-8 at byte {error.start + 1}"
    except json.JSONDecodeError as error:
        wrong = f"not JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number too long, nesting too deep
        wrong = f"not JSON that can be read: {error}"
    raise TaskError(
        f"{where} is {wrong}, expected one JSON object a line",
        hint=f"correct that line, or {fix}",
    )


class HubRows:
    """The rows of one hub dataset, downloaded when first asked for, or read from the cache."""

    fix = "name a folder with other rows as --data-dir"

    def __init__(self, source: HubSource, file: str) -> None:
        self.source = source
        self._offline_hint = (
            f"to work offline, name a folder with {file}.train.jsonl as --data-dir, or set "
            "HF_HOME to a folder whose datasets cache has it; HF_ENDPOINT names another hub"
        )

    def where(self, split: str) -> str:
        return f"{self.source}, split {split}"

    def has(self, split: str) -> bool:
        return split in self._splits

    def rows(self, split: str) -> Iterator[LocatedRow]:
        if not self.has(split):
            raise TaskError(
                f"{self.source} has no split {split}, it has: {', '.join(self._splits)}",
                hint=self._offline_hint,
            )
        if len(self._splits[split]) == 0:
            raise TaskError(f"{self.where(split)} has no rows", hint=self._offline_hint)
        for number, row in enumerate(self._splits[split], start=1):
            yield f"{self.where(split)}, row {number}", row

    @cached_property
    def _splits(self) -> dict[str, Any]:
        import datasets

        try:
            return datasets.load_dataset(
                self.source.id,
                self.source.config,
                trust_remote_code=False,  # datasets before 4.0 would ask; later ones never run code
            )
        except Exception as error:
            wrong = _explanation(error)
            if wrong is None:
                raise
            hint = self._offline_hint
            if wrong == _GATED:
                terms = f"accept its terms at https://huggingface.co/datasets/{self.source.id}"
                hint = f"{terms} and log in with `hf auth login`; {hint}"
            raise TaskError(f"dataset {self.source} {wrong}", hint=hint) from error


_GATED = "is gated on the hub"


def _explanation(error: Exception) -> str | None:
    """What `error` of load_dataset (5.2) means for the user; None for what they cannot fix."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    # The errors module re-exports the base error of its HTTP library, which has changed twice.
    from huggingface_hub.errors import HTTPError

    if isinstance(error, DatasetNotFoundError):
        gated = "gated" in str(error)
        return _GATED if gated else "is not on the hub, or you have no access to it"
    if isinstance(error, ConnectionError):
        return "is not in the cache and the hub cannot be reached"
    if isinstance(error, RuntimeError) and "scripts are no longer supported" in str(error):
        return "needs a dataset script, which esft does not run"
    if isinstance(error, (OSError, HTTPError, ValueError, DatasetsError)):
        return f"cannot be loaded: {' '.join(str(error).split())}"
    return None
