"""One column of a raw row, under its name or another, or what is wrong with it."""

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from esft.errors import TaskError

OURS = ("prompt", "messages", "answer", "choices", "split", "id")
"""The columns that a user's rows can have."""
ASKING = {"prompt", "messages"}
"""Either asks."""
ALIKE = {
    "prompt": ("question", "instruction", "input", "query", "problem", "text", "title"),
    "answer": ("label", "output", "response", "target", "solution", "completion", "reference"),
}
"""What the first columns are called elsewhere."""


def parse_columns(text: str | None) -> dict[str, str]:
    """Return "prompt=question,answer=label" as our name of each column to theirs.

    Raises:
        TaskError: a pair is not of that form, or its first name is not one of `OURS`.
    """
    named: dict[str, str] = {}
    for pair in [] if text is None else text.split(","):
        ours, _, theirs = (part.strip() for part in pair.partition("="))
        if ours not in OURS or not theirs or ours in named:
            raise TaskError(
                f"columns is {text!r}, expected pairs of a column of ours, each once ("
                f"{', '.join(OURS)}), and what it is called in the rows",
                hint="for example --columns prompt=question,answer=label",
            )
        named[ours] = theirs
    return named


def renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """Return a row with columns also under our names, as `parse_columns` has them.

    Raises:
        TaskError: a column is not there; the hint has the nearest.
    """
    if not columns:
        return row
    taken = {ours: any_column(row, theirs) for ours, theirs in columns.items()}
    # What asks is named: another column that happens to be called so does not ask too.
    asking = ASKING if columns.keys() & ASKING else ()
    return {name: value for name, value in row.items() if name not in asking} | taken


def require_ours(row: Mapping[str, Any]) -> None:
    """TaskError if a row asks nothing or has no answer; the hint has columns that look like it."""
    lacking = [] if row.keys() & ASKING else ["prompt"]
    lacking += [] if "answer" in row or row.get("messages") is not None else ["answer"]
    if not lacking:
        return
    alike = {
        ours: next((n for n in row if str(n).lower() in ALIKE[ours]), None) for ours in lacking
    }
    pairs = ",".join(f"{ours}={theirs}" for ours, theirs in alike.items() if theirs is not None)
    raise TaskError(
        f"column {lacking[0]} is missing, the row has: {_names(row)}",
        hint=f"say which columns to take: --columns {pairs}" if pairs else None,
    )


def any_column(row: Mapping[str, Any], name: str) -> Any:
    """What is in column `name`; "choices.text" is read from the object in column choices."""
    whole, value, path = "the row", row, ""
    for part in name.split("."):
        if not isinstance(value, Mapping):
            raise wrong_column(path, value, f"an object with {part}")
        path = f"{path}.{part}".lstrip(".")
        if part not in value:
            near = difflib.get_close_matches(part, map(str, value), n=1)
            hint = f"did you mean {near[0]}?" if near else None
            raise TaskError(f"column {path} is missing, {whole} has: {_names(value)}", hint=hint)
        whole, value = path, value[part]
    return value


def text_column(row: Mapping[str, Any], name: str) -> str:
    value = any_column(row, name)
    if not is_text(value):
        raise wrong_column(name, value, "a text that is not empty")
    return value


def texts_column(row: Mapping[str, Any], name: str) -> list[str]:
    value = any_column(row, name)
    if not isinstance(value, list) or not all(map(is_text, value)):
        raise wrong_column(name, value, "a list of texts that are not empty")
    return value


def index_column(row: Mapping[str, Any], name: str, count: int) -> int:
    index = any_column(row, name)
    if type(index) is not int or not 0 <= index < count:  # True is an int too
        raise wrong_column(name, index, f"a whole number from 0 to {count - 1}")
    return index


def word_column(row: Mapping[str, Any], name: str, words: Sequence[str]) -> str:
    value = text_column(row, name)
    if value not in words:
        raise wrong_column(name, value, f"one of {', '.join(words)}")
    return value


def wrong_column(name: str, value: object, expected: str) -> TaskError:
    """The error of a column that holds `value`; whoever knows the file and line adds them."""
    return TaskError(f"column {name} is {reprlib.repr(value)}, expected {expected}")


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row)) or "no columns"


def is_text(value: object) -> bool:
    """Whether `value` is a str with something in it that UTF-8 can hold (no lone surrogates)."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value.encode(errors="ignore") == value.encode(errors="surrogatepass")
