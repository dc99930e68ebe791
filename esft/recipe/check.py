"""What is wrong with settings: found value by value, told all at once."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from esft.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a recipe."""

    keys: tuple[str, ...]
    """The settings involved, as "table.key"; the first is the one that `message` is about."""
    message: str
    """One line: the key, the value found, what was expected."""
    hint: str | None
    """One line: how to fix it."""


class SettingsError(RecipeError):
    """Everything that is wrong with a recipe or a table of one: a line each, hints too."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        hints = dict.fromkeys(each.hint for each in self.problems if each.hint is not None)
        message = "\n".join(each.message for each in self.problems)
        super().__init__(message, hint="\n".join(hints) or None)


def as_toml(value: object) -> str:
    """`value` as TOML writes it, on one line; what TOML cannot write is described."""
    match value:
        case None:
            return "not set"
        case bool():
            return "true" if value else "false"
        case str():
            # JSON escapes what TOML wants escaped, apart from DEL.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(as_toml(item) for item in value)}]"
        case dict():
            return "a table"
        case _:
            return str(value)


def shown(value: object) -> str:
    """`value` for a message: as TOML writes it, cut at 80 characters."""
    text = as_toml(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that `word` was most likely meant to be, or None."""
    return next(iter(difflib.get_close_matches(word.lower(), list(words), n=1)), None)


class Checks:
    """Collects what is wrong with one table; None is fine wherever it is the default."""

    def __init__(self, table: str, settings: object) -> None:
        self.table = table
        self.settings = settings
        self.problems: list[Problem] = []

    def text(self, key: str, expected: str, *, hint: str | None = None) -> None:
        value = self._value(key)
        if self._absent(key) or _is_text(value):
            return
        if not isinstance(value, str | list | tuple | dict | None):
            quoted = as_toml(as_toml(value))
            hint = f"put it in quotes: {key} = {quoted}, or --set '{self.table}.{key}={quoted}'"
        self.refuse(key, expected, hint=hint or f"set {key} to {expected}, or leave it out")

    def globs(self, key: str) -> None:
        value = self._value(key)
        if self._absent(key):
            return
        if isinstance(value, list | tuple) and all(_is_text(glob) for glob in value):
            self._keep(key, tuple(value))
        else:
            hint = f'for example {key} = ["*.mlp.*"]'
            self.refuse(key, "a list of globs on parameter names", hint=hint)

    def lines(
        self,
        key: str,
        read: Callable[[tuple[str, ...]], tuple[tuple[str, ...], list[Problem]]],
        *,
        example: str,
    ) -> None:
        """Refuse what is no list of texts; `read` gives the lines to keep, and their problems."""
        value = self._value(key)
        if not isinstance(value, list | tuple) or not all(_is_text(line) for line in value):
            self.refuse(key, "a list of names", hint=f'for example {key} = ["{example}"]')
            return
        kept, problems = read(tuple(value))
        where = f"[{self.table}] {key}: "
        self.problems += [replace(each, message=where + each.message) for each in problems]
        if not problems:
            self._keep(key, kept)

    def whole(self, key: str, *, least: int, most: int | None = None, example: int) -> None:
        value = self._value(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if self._absent(key) or (whole and least <= value and (most is None or value <= most)):
            return
        span = f"{least} or more" if most is None else f"{least} to {most}"
        self.refuse(key, f"a whole number, {span}", hint=f"for example {key} = {example}")

    def number(self, key: str, *, zero: bool = False, example: float) -> None:
        value = self._value(key)
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if real and (0 < value <= sys.float_info.max or (zero and value == 0)):
            self._keep(key, float(value))
        else:
            span = "0 or more" if zero else "above 0"
            self.refuse(key, f"a finite number, {span}", hint=f"for example {key} = {example:g}")

    def switch(self, key: str) -> None:
        if not isinstance(self._value(key), bool):
            self.refuse(key, "true or false", hint=f"set {key} = true or {key} = false")

    def choice(self, key: str, choices: tuple[str, ...]) -> None:
        value = self._value(key)
        if self._absent(key) or (isinstance(value, str) and value in choices):
            return
        meant = nearest(str(value), choices) or choices[0]
        expected = " or ".join(as_toml(each) for each in choices)
        self.refuse(key, expected, hint=f"set {key} = {as_toml(meant)}")

    def sound(self, *keys: str) -> bool:
        wrong = {key for problem in self.problems for key in problem.keys}
        return wrong.isdisjoint(f"{self.table}.{key}" for key in keys)

    def refuse(self, key: str, expected: str, *, hint: str, others: tuple[str, ...] = ()) -> None:
        message = f"[{self.table}] {key} is {shown(self._value(key))}, expected {expected}"
        keys = tuple(f"{self.table}.{each}" for each in (key, *others))
        self.problems.append(Problem(keys=keys, message=message, hint=hint))

    def finish(self) -> None:
        if self.problems:
            raise SettingsError(self.problems)

    def _value(self, key: str) -> object:
        return getattr(self.settings, key)

    def _absent(self, key: str) -> bool:
        return self._value(key) is None and getattr(type(self.settings), key, ...) is None

    def _keep(self, key: str, value: object) -> None:
        # A list becomes a tuple and an int a float, so that equal recipes are written alike.
        object.__setattr__(self.settings, key, value)


def _is_text(value: object) -> bool:
    # Half of a surrogate pair, as from a file name in bytes, cannot be written to a recipe.
    return (
        isinstance(value, str)
        and bool(value.strip())
        and not any("\ud800" <= char <= "\udfff" for char in value)
    )
