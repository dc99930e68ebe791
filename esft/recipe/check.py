"""How a setting is declared, once; how its value is checked, and what is said of a wrong one."""

from __future__ import annotations

import difflib
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from esft.errors import RecipeError

Rule = tuple[tuple[str, ...], Callable[..., Iterator[tuple[str, str]]]]
"""Settings, and what yields expected and hint where their values contradict each other; the message
is about the first of them."""

HANDFUL = 10
"""Problems of one kind that are said one by one; the others are counted."""


class Problem(NamedTuple):
    """One thing that is wrong with a recipe."""

    keys: tuple[str, ...]  # the settings involved, as "table.key"; it is about the first
    text: str
    hint: str | None


class SettingsError(RecipeError):
    """Everything that is wrong with a recipe or a table of one: a line each, hints too."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        hints = dict.fromkeys(problem.hint for problem in self.problems if problem.hint is not None)
        text = "\n".join(problem.text for problem in self.problems)
        super().__init__(text, hint="\n".join(hints) or None)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that checks, recipes and commands know of a setting."""

    name: str
    kind: str  # "str", "int", "float", "bool" or "tuple[str, ...]"
    default: object
    help: str  # with the unit; choices and default are added where it is shown
    unset: str | None = None
    """What None means; None where it cannot be None, so that it must be given without a default."""
    flag: str | None = None  # the option of the command line; None where only --set does
    example: object = None  # a right value, where the default is none
    choices: tuple[str, ...] = ()
    at_least: float = -math.inf  # 1 for a whole number where nothing else is said
    at_most: float = sys.float_info.max
    above: float = -math.inf
    read: Callable[[Any], Any] | None = None
    """Makes the value that is kept of a right one; SettingsError where it is wrong after all."""

    @property
    def default_text(self) -> str | None:
        """What holds where nothing is said, for people; None where that needs no words."""
        if self.default is None or self.default == ():
            return self.unset
        return f"{self.default:g}" if self.kind == "float" else str(self.default)

    @property
    def takes(self) -> str:
        """What values are right, for people."""
        match self.kind:
            case "str":
                return " or ".join(map(as_toml, self.choices)) or "text"
            case "bool":
                return "true or false"
            case "int" | "float":
                span = f"above {self.above}" if self.above >= 0 else f"{self.at_least} or more"
                if self.at_most < sys.float_info.max:
                    span = f"{self.at_least} to {self.at_most}"
                return f"a {'whole' if self.kind == 'int' else 'finite'} number, {span}"
            case _:
                return "a list of texts"

    def refusal(self, table: str, value: object) -> Problem | None:
        """Return what is wrong with a value; None where it has the type, bounds or choices."""
        example = as_toml(self.default if self.example is None else self.example)
        hint, expected = f"for example {self.name} = {example}", self.takes
        match self.kind:
            case "str" if self.choices:
                right = value in self.choices
                meant = nearest(str(value), self.choices) or self.choices[0]
                hint = f"set {self.name} = {as_toml(meant)}"
            case "str":
                right, expected = _is_text(value), f"text such as {example}"
                if value is None and self.flag is not None:
                    hint = f"give {self.flag} {self.example}, or set {hint[12:]} under [{table}]"
                elif not isinstance(value, str | list | tuple | dict | None):
                    quoted = as_toml(as_toml(value))
                    hint = f"put it in quotes: {self.name} = {quoted}, or --set "
                    hint += f"'{table}.{self.name}={quoted}'"
            case "bool":
                right = isinstance(value, bool)
                hint = f"set {self.name} = true or {self.name} = false"
            case "int" | "float":
                real = isinstance(value, int if self.kind == "int" else int | float)
                inside = real and self.above < value and self.at_least <= value <= self.at_most
                right = inside and not isinstance(value, bool)
            case _:
                right = isinstance(value, list | tuple) and all(map(_is_text, value))
        if right or (value is None and self.unset is not None):
            return None
        return _contradiction((f"{table}.{self.name}",), value, expected, hint)


def setting(help: str, default: object = None, **facts: Any) -> Any:
    """Return the field of a setting; `facts` are what else `Setting` has of it."""
    return field(default=default, metadata={"default": default, "help": help, **facts})


class Settings:
    """Base of the frozen dataclasses that are declared by `setting`: checked when one is made."""

    table: ClassVar[str]
    rules: ClassVar[tuple[Rule, ...]] = ()
    """What its values must fulfil together, each right by itself."""

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        for name, declared in self.declared().items():
            value = getattr(self, name)
            refused = declared.refusal(self.table, value)
            if refused is not None:
                problems.append(refused)
            elif declared.read is not None and value is not None:
                try:
                    object.__setattr__(self, name, declared.read(value))
                except SettingsError as error:
                    problems += error.problems
        values = {f"{self.table}.{name}": getattr(self, name) for name in self.declared()}
        rules = [(tuple(f"{self.table}.{key}" for key in keys), rule) for keys, rule in self.rules]
        problems += broken(rules, values, problems)
        if problems:
            raise SettingsError(problems)

    @classmethod
    def declared(cls) -> dict[str, Setting]:
        """Return every setting of the table by name, in its order."""
        # Equal recipes are written alike: an int for a float becomes one, a list a tuple.
        by_kind = {"int": {"at_least": 1}, "float": {"read": float}}
        by_kind["tuple[str, ...]"] = {"read": tuple}
        settings = {}
        for entry in fields(cls):
            kind = entry.type.removesuffix(" | None")
            facts = by_kind.get(kind, {}) | entry.metadata
            settings[entry.name] = Setting(name=entry.name, kind=kind, **facts)
        return settings


def broken(
    rules: Iterable[Rule], values: Mapping[str, object], problems: Collection[Problem]
) -> Iterator[Problem]:
    """Yield a problem for each rule that does not hold and has no value that is wrong by itself."""
    wrong = {key for problem in problems for key in problem.keys}
    for keys, rule in rules:
        if wrong.isdisjoint(keys):
            for expected, hint in rule(*(values[key] for key in keys)):
                yield _contradiction(keys, values[keys[0]], expected, hint)


def _contradiction(keys: tuple[str, ...], value: object, expected: str, hint: str) -> Problem:
    table, _, key = keys[0].partition(".")
    return Problem(keys, f"[{table}] {key} is {shown(value)}, expected {expected}", hint)


def unknown(table: str, key: str, value: object, known: Iterable[str]) -> Problem:
    """Return the problem of a key that is none of those known."""
    known, name = list(known), cut(key)
    meant = nearest(key.replace("-", "_"), known)
    text = f"{name} = {shown(value)} is not a setting, expected one of: {', '.join(known)}"
    hint = f"take {name} out" if meant is None else f"did you mean {meant}?"
    return Problem((f"{table}.{key}",), f"[{table}] {text}", hint)


def first_of(
    strange: Mapping[str, object], problem: Callable[[str, object], Problem], known: str
) -> Iterator[Problem]:
    """Yield the problem of each of a handful of keys, and one that counts those beyond it."""
    for key, value in islice(strange.items(), HANDFUL):
        yield problem(key, value)
    if (others := len(strange) - HANDFUL) > 0:
        yield Problem((), f"{others:,} more keys are not {known} either", None)


def as_toml(value: object) -> str:
    """Return a value as TOML writes it, on one line; what TOML cannot write is described."""
    match value:
        case None:
            return "not set"
        case bool():
            return "true" if value else "false"
        case str():
            # JSON escapes what TOML wants escaped, apart from DEL.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            if any(isinstance(inner, list) for inner in value):  # at any depth
                return "a list of lists"
            return f"[{', '.join(map(as_toml, value))}]"
        case dict():
            return "a table"
        case _:
            return str(value)


def shown(value: object) -> str:
    """Return a value for a message: as TOML writes it, cut at 80 characters."""
    return cut(as_toml(value))


def cut(text: str) -> str:
    """Return a text for a message, cut at 80 characters."""
    return text if len(text) <= 80 else f"{text[:79]}…"


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the one of `words` that `word` was most likely meant to be, or None."""
    return next(iter(difflib.get_close_matches(word.lower(), list(words), n=1)), None)


def read_text(file: Path, hint: str | None = None) -> str:
    """Return the text of a file in UTF-8; RecipeError, with `hint` where there is no file."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{file} cannot be read: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = f"{file} line {line} is not UTF-8, expected text"
        raise RecipeError(message, hint="save the file in UTF-8") from error


def _is_text(value: object) -> bool:
    # Half of a surrogate pair, as from a file name in bytes, cannot be written to a recipe; and
    # no path has a NUL.
    plain = isinstance(value, str) and not re.search("[\0\ud800-\udfff]", value)
    return plain and bool(value.strip())
