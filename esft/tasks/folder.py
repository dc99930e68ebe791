"""Rows from a folder of <file>.<split>.jsonl files, each with where it came from."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esft.errors import TaskError


@dataclass(frozen=True, kw_only=True)
class FolderRows:
    """The splits of one task in a data folder.

    Args:
        folder: the data folder.
        file: stem of the task's files.
        fix: what to do about a missing or wrong file, the end of each hint.
    """

    folder: Path
    file: str
    fix: str

    def where(self, split: str) -> str:
        """The path of a split, for messages."""
        return str(self._path(split))

    def has(self, split: str) -> bool:
        """Whether the folder has a file of this split."""
        return self._path(split).is_file()

    def rows(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Place and object of each line that is not blank.

        Lines end at LF alone: U+2028 inside a text does not cut a line. A byte order mark is
        skipped.

        Raises:
            TaskError: no such folder or file, a file without rows, or a line that is no object.
        """
        path = self._path(split)
        if not path.is_file():
            raise self._missing(split)
        found = False
        for number, line in self._lines(path):
            found = True
            where = f"{path} line {number}"
            yield where, self._parse(where, line)
        if not found:
            raise TaskError(
                f"{path} is empty, expected one JSON object a line",
                hint=f"fill the file, or {self.fix}",
            )

    def _path(self, split: str) -> Path:
        return self.folder / f"{self.file}.{split}.jsonl"

    def _lines(self, path: Path) -> Iterator[tuple[int, bytes]]:
        try:
            with path.open("rb") as lines:  # bytes are cut at LF alone, text mode also at CR
                for number, line in enumerate(lines, start=1):
                    text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                    if text.strip():
                        yield number, text.rstrip()
        except OSError as error:
            raise TaskError(
                f"{path} cannot be read: {error.strerror or error}", hint=self.fix
            ) from error

    def _parse(self, where: str, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self._no_object(where, f"no UTF-8 at byte {error.start + 1}") from None
        except json.JSONDecodeError as error:
            raise self._no_object(where, f"no JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError) as error:  # a number too long, nesting too deep
            raise self._no_object(where, f"no JSON that can be read: {error}") from None
        if not isinstance(value, dict):
            raise self._no_object(where, f"a JSON {_KINDS[type(value)]}")
        return value

    def _no_object(self, where: str, found: str) -> TaskError:
        return TaskError(
            f"{where} is {found}, expected one JSON object a line",
            hint=f"correct that line, or {self.fix}",
        )

    def _missing(self, split: str) -> TaskError:
        name = self._path(split).name
        if not self.folder.is_dir():
            return TaskError(
                f"{self.folder} is no folder, expected one with {name}",
                hint=f"correct --data-dir (or ESFT_DATA_DIR), or {self.fix}",
            )
        there = sorted(path.name for path in self.folder.glob(f"{self.file}.*.jsonl"))
        has = f"of this task it has {', '.join(there)}" if there else "it has no file of this task"
        return TaskError(
            f"{self.folder} has no {name}; {has}",
            hint=f"put {name} there, name another folder with --data-dir, or {self.fix}",
        )


_KINDS = {
    list: "list",
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
