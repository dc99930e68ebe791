"""One column of a raw row, of the type it must have, or what is wrong with it."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from esft.errors import TaskError


def any_column(row: Mapping[str, Any], name: str) -> Any:
    """What is in column `name`; "choices.text" is read from the object in column choices."""
    whole, value, path = "the row", row, ""
    for part in name.split("."):
        if not isinstance(value, Mapping):
            raise wrong_column(path, value, f"an object with {part}")
        path = f"{path}.{part}".lstrip(".")
        if part not in value:
            columns = ", ".join(map(str, value)) or "no columns"
            raise TaskError(f"column {path} is missing, {whole} has: {columns}")
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


def is_text(value: object) -> bool:
    """Whether `value` is a str with something in it that UTF-8 can hold (no lone surrogates)."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value.encode(errors="ignore") == value.encode(errors="surrogatepass")
