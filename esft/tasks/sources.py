"""Where rows come from: a folder of .jsonl files, a dataset of the hub, a generator, a user."""

import json
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from esft.errors import TaskError
from esft.hub import offline_if_unreachable, silent
from esft.tasks.words import SPLITS

LocatedRow = tuple[str, Mapping[str, Any]]
"""Where a raw row is, for messages, and its columns."""
Splits = Mapping[str, Iterable[Mapping[str, Any]]]
"""The rows of each split."""


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """Where the rows of a task come from, split by split."""

    where: Callable[[str], str]
    """File, dataset or program and split, for messages."""
    has: Callable[[str], bool]
    rows: Callable[[str], Iterable[LocatedRow]]
    """The raw rows of a split; TaskError where there are none."""
    fix: str
    """What to do about rows that are missing or wrong, the end of each hint."""
    shuffled: bool = False
    """Whether the rows stand in random order already, as those that esft draws or ships."""


def folder_rows(folder: Path, file: str, fix: str) -> RowSource:
    """The rows of one task in a data folder, in files <file>.<split>.jsonl."""

    def path_of(split: str) -> Path:
        return folder / f"{file}.{split}.jsonl"

    def rows(split: str) -> Iterator[LocatedRow]:
        path = path_of(split)
        if not path.is_file():
            others = ", ".join(sorted(path.name for path in folder.glob(f"{file}.*.jsonl")))
            wrong = f"has no {path.name}; of this task it has {others or 'no file'}"
            if not folder.is_dir():
                wrong = f"is not a folder, expected one with {path.name}"
            raise TaskError(
                f"{folder} {wrong}",
                hint=f"put {path.name} there, name another folder with --data-dir, or {fix}",
            )
        return json_lines(path, fix)

    return RowSource(
        where=lambda split: str(path_of(split)),
        has=lambda split: path_of(split).is_file(),
        rows=rows,
        fix=fix,
    )


def split_source(
    name: str,
    splits: Callable[[], Collection[str]],
    read: Callable[[str], Iterable[LocatedRow]],
    fix: str = "name a folder with other rows as --data-dir",
) -> RowSource:
    """The source of a dataset, a generator or a file, with these splits."""

    def rows(split: str) -> Iterable[LocatedRow]:
        if split not in splits():
            wrong = f"{name} has no split {split}, it has: {', '.join(splits())}"
            raise TaskError(wrong, hint=fix)
        return read(split)

    return RowSource(
        where=lambda split: f"{name}, split {split}",
        has=lambda split: split in splits(),
        rows=rows,
        fix=fix,
    )


def numbered(name: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[LocatedRow]:
    """The rows of a source without lines."""
    return ((f"{name}, row {number}", row) for number, row in enumerate(rows, start=1))


def generated_rows(name: str, make: Callable[[str], Iterable[Mapping[str, Any]]]) -> RowSource:
    """The rows that `make` gives for a split, made anew each time they are read."""
    source = split_source(
        name, lambda: SPLITS, lambda split: numbered(f"{name}, split {split}", make(split))
    )
    return replace(source, shuffled=True)


def hub_rows(
    name: str, file: str, usable: Callable[[Splits], Splits] = lambda splits: splits
) -> RowSource:
    """The rows of a hub dataset ("name, configuration"), downloaded when first asked for.

    Args:
        file: what a file of them in a data folder would be called.
        usable: which splits of those there are, and what they are called.
    """
    offline = (
        f"to work offline, name a folder with {file}.train.jsonl as --data-dir, or set "
        "HF_HOME to a folder whose datasets cache has it; HF_ENDPOINT names another hub"
    )

    @cache
    def splits() -> Splits:
        import datasets

        # The errors module re-exports the base error of its HTTP library, which has changed twice.
        from huggingface_hub.errors import HTTPError

        dataset, _, config = name.partition(", ")
        try:
            with silent(), offline_if_unreachable():
                # Before 4.0, it would ask whether to run remote code; later ones never run it.
                loaded = datasets.load_dataset(dataset, config or None, trust_remote_code=False)
        except ConnectionError as error:
            wrong = "is not in the cache and the hub cannot be reached"
            raise TaskError(f"dataset {name} {wrong}", hint=offline) from error
        except (OSError, HTTPError, ValueError, datasets.exceptions.DatasetsError) as error:
            wrong = f"cannot be loaded: {' '.join(str(error).split())}"
            raise TaskError(f"dataset {name} {wrong}", hint=offline) from error
        return usable(loaded)

    return split_source(
        name, splits, lambda split: numbered(f"{name}, split {split}", splits()[split])
    )


def json_lines(path: Path, fix: str) -> Iterator[LocatedRow]:
    """The objects of a JSON Lines file; blank lines are skipped, and still counted."""
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
