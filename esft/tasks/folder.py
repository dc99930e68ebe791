"""Rows from a folder of <file>.<split>.jsonl files, each with where it came from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esft.errors import TaskError
from esft.tasks.json_lines import json_lines


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

        Raises:
            TaskError: no such folder or file, a file without rows, or a line that is no object.
        """
        path = self._path(split)
        if not path.is_file():
            raise self._missing(split)
        yield from json_lines(path, self.fix)

    def _path(self, split: str) -> Path:
        return self.folder / f"{self.file}.{split}.jsonl"

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
