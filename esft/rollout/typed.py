"""JSON that stands for a dataclass: read back as one, or refused by the name of what is wrong."""

import json
import math
import re
import reprlib
import sys
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

_WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}
_WORDS |= {tuple: "a list", dict: "an object"}


def known(value: float | None) -> float | None:
    """Return a number; None for None, NaN and infinities."""
    return None if value is None or not math.isfinite(value) else float(value)


def to_json(value: object) -> Any:
    """Return dataclasses, tuples, dicts and paths as JSON has them: NaN and infinities are null."""
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: to_json(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return known(value) if isinstance(value, float) else value


def json_text(value: object, indent: int | None = None) -> str:
    """Return `to_json` of a value as JSON that every reader takes."""
    return json.dumps(to_json(value), indent=indent, allow_nan=False)


def from_json(kind: type[T], value: object, name: str = "") -> T:
    """Return what `to_json` made of a `kind`: null is None, or NaN where a float is expected.

    Args:
        kind: a dataclass; or the type of a field of one, `object` for what is taken as it is.
        value: as `parse` gives it; keys that `kind` does not have are left out.
        name: of the key that has it, for the error.

    Raises:
        ValueError: if `value`, or one in it, is not of its kind; it says which.
    """
    origin, args = get_origin(kind) or kind, get_args(kind)
    if origin is UnionType:
        return None if value is None else from_json(args[0], value, name)
    if is_dataclass(kind) and isinstance(value, dict):
        return _made(kind, value, f"{name}." if name else "")
    if origin is tuple and isinstance(value, list):
        kinds = args[:1] * len(value) if args[-1] is ... else args
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(from_json(of, inner, f"{name}[{at}]") for at, (of, inner) in pairs)
    if origin is dict and isinstance(value, dict):
        return {
            from_json(args[0], key, f"a name in {name}"): from_json(args[1], inner, f"{name}.{key}")
            for key, inner in value.items()
        }
    if kind is float and value is None:
        return math.nan
    if _fits(origin, args, value):
        return float(value) if kind is float else value
    expected = " or ".join(map(str, args)) if origin is Literal else _WORDS.get(origin, "an object")
    raise ValueError(f"{name or 'it'} is {reprlib.repr(value)}, expected {expected}")


def _fits(kind: object, choices: tuple, value: object) -> bool:
    """Return whether a value is a single one of a kind, or one of the choices of a Literal."""
    if kind is Literal:
        return value in choices
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if kind is str:  # half of a surrogate pair cannot be printed
        return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)
    return kind is object or type(value) is kind


def _made(kind: type[T], value: dict[str, object], place: str) -> T:
    kinds = _kinds(kind)
    for field in fields(kind):
        if field.name not in value and field.default is MISSING:
            raise ValueError(f"{place}{field.name} is missing")
    there = [name for name in kinds if name in value]
    return kind(**{name: from_json(kinds[name], value[name], place + name) for name in there})


_kinds = cache(get_type_hints)
