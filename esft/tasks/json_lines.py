"""The objects of a JSON Lines file, each with its file and line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esft.errors import TaskError


def json_lines(path: Path, fix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (for messages) and object of each line that is not blank.

    Lines end at LF alone: U+2028 inside a text does not cut a line. A byte order mark is skipped.

    Args:
        path: the file.
        fix: what to do about a wrong file, the end of each hint.

    Raises:
        TaskError: a file that cannot be read or has no rows, or a line that is no object.
    """
    found = False
    for number, line in _lines(path, fix):
        found = True
        where = f"{path} line {number}"
        yield where, _parse(where, line, fix)
    if not found:
        raise TaskError(
            f"{path} is empty, expected one JSON object a line", hint=f"fill the file, or {fix}"
        )


def _lines(path: Path, fix: str) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as lines:  # bytes are cut at LF alone, text mode also at CR
            for number, line in enumerate(lines, start=1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    yield number, text.rstrip()
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror or error}", hint=fix) from error


def _parse(where: str, line: bytes, fix: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _no_object(where, f"no UTF-8 at byte {error.start + 1}", fix) from None
    except json.JSONDecodeError as error:
        raise _no_object(where, f"no JSON: {error.msg} at column {error.colno}", fix) from None
    except (ValueError, RecursionError) as error:  # a number too long, nesting too deep
        raise _no_object(where, f"no JSON that can be read: {error}", fix) from None
    if not isinstance(value, dict):
        raise _no_object(where, f"a JSON {_KINDS[type(value)]}", fix)
    return value


def _no_object(where: str, found: str, fix: str) -> TaskError:
    return TaskError(
        f"{where} is {found}, expected one JSON object a line",
        hint=f"correct that line, or {fix}",
    )


_KINDS = {
    list: "list",
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
