"""What a user's own file holds, row by row: .jsonl, .csv or .parquet."""

import csv
import difflib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esft.errors import TaskError
from esft.tasks.sources import LocatedRow, json_lines
from esft.tasks.words import OWN

_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_LISTS = ("messages", "choices")  # columns whose cells in a .csv file hold more than a text
_FEW = 3  # columns named in the error of a row with too many cells


def file_rows(path: Path, fix: str) -> Iterator[LocatedRow]:
    """Yield the rows of a file by what its name ends in; TaskError where it cannot be read."""
    if not path.exists():
        raise TaskError(
            f"{path} cannot be read: No such file or directory", hint=like_named(path) or fix
        )
    if path.suffix == ".csv":
        return _csv_rows(path, fix)
    return _parquet_rows(path) if path.suffix == ".parquet" else json_lines(path, fix)


def like_named(path: Path) -> str | None:
    """Return a hint with the file beside `path` that was likely meant; None where there is none."""
    folder = path.parent
    there = sorted(file.name for file in folder.glob("*") if file.suffix in OWN)
    if not folder.is_dir():
        return f"there is no folder {folder}"
    near = [name for name in there if Path(name).stem == path.stem]
    near += difflib.get_close_matches(path.name, there, n=1)
    return f"did you mean {folder / near[0]}?" if near else None


def _csv_rows(path: Path, fix: str) -> Iterator[LocatedRow]:
    """Yield the rows of a .csv file below its line of column names.

    Cells are parted by the sign that is most frequent in the first line, of comma, semicolon and
    tab: what spreadsheets write depends on the country. Empty cells are "" in prompt and answer,
    which a row needs, and None in others.
    """
    text = _text(path)
    first = text.lstrip().partition("\n")[0]
    lines = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count), strict=True)
    names: list[str] = []
    number = 0
    try:
        for cells in lines:
            where, number = f"{path} line {number + 1}", lines.line_num
            if not any(cells):
                continue
            if not names:
                names = _column_names(where, cells)
            elif len(cells) != len(names):
                raise TaskError(
                    f"{where} has {_count(len(cells))}, expected {len(names)} as the first line: "
                    f"{', '.join(names[:_FEW])}{' ...' if len(names) > _FEW else ''}",
                    hint='put a cell that has the separator in it in quotes: "one, two"',
                )
            else:
                pairs = zip(names, cells, strict=True)
                yield where, {name: _cell(where, name, cell) for name, cell in pairs}
    except csv.Error as error:
        raise TaskError(
            f"{path} line {lines.line_num} is not CSV: {error}",
            hint='a quote within a quoted cell is doubled: "she said ""yes"""',
        ) from error
    if number == 0 or not names:
        wrong = f"{path} is empty, expected a line of column names, and a line a row"
        raise TaskError(wrong, hint=f"fill the file, or {fix}")


def _text(path: Path) -> str:
    """Return a file's text, which is UTF-8; TaskError says what else it seems to be."""
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        kind = _BOMS.get(data[:2], "Windows-1252 (Latin-1)")
        line = data.count(b"\n", 0, error.start) + 1
        name = kind.partition(" ")[0].upper()
        raise TaskError(
            f"{path} line {line} is not UTF-8, it looks like {kind}",
            hint="save it as CSV UTF-8 in the spreadsheet, or convert it: "
            f"iconv -f {name} -t UTF-8 {path} > utf8-{path.name}",
        ) from error


def _column_names(where: str, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "" in names or len(set(names)) < len(names):
        wrong = "an empty one" if "" in names else "one twice"
        raise TaskError(
            f"{where} has the column names {', '.join(map(repr, names))}, {wrong}; expected each "
            "once",
            hint="the first line names the columns, such as prompt,answer",
        )
    return names


def _cell(where: str, name: str, cell: str) -> Any:
    """Return what a cell holds: a list from JSON, or of choices parted by |, else its text."""
    if not cell.strip() and name not in ("prompt", "answer"):
        return None
    if name not in _LISTS:
        return cell
    if not cell.lstrip().startswith("["):
        return [part.strip() for part in cell.split("|")]
    try:
        return json.loads(cell)
    except ValueError as error:
        raise TaskError(
            f"{where}: column {name} is {cell[:40]!r}, expected a list in JSON: {error}",
            hint='for example ["red", "blue"], or red | blue',
        ) from error


def _count(cells: int) -> str:
    return f"{cells} cell{'' if cells == 1 else 's'}"


def _parquet_rows(path: Path) -> Iterator[LocatedRow]:
    # It comes with `datasets`; 0.2 s, for which no other task waits.
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        for batch in ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", row
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise TaskError(
            f"{path} cannot be read as Parquet: {reason}", hint="download or write it again"
        ) from error
    if number == 0:
        raise TaskError(f"{path} has no rows, expected at least one", hint="fill the file")
