"""A prior task in one line of text: name[:rows] [key=value ...]."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esft.files import slug
from esft.recipe.check import Problem, SettingsError, as_toml, nearest, shown
from esft.tasks.words import GRADERS, REWARDS, SCORINGS, SPLITS

OWN = (".jsonl", ".py")
"""How the names of files with a user's own tasks end."""
_WORDS = {"scoring": SCORINGS, "reward": REWARDS, "grader": GRADERS, "split": SPLITS}
_KEYS = ("scoring", "reward", "max_new_tokens", "grader", "split", "data_dir")
_KEY = r"[A-Za-z_][\w-]*\s*="
_SETTING = re.compile(rf"\s+(?={_KEY})")
_COUNT = "a whole number, 1 or more"


@dataclass(frozen=True, kw_only=True)
class PriorSpec:
    """Which task, on which of its rows, scored how; None takes the default.

    `str` gives the line that `parse_prior_line` reads as an equal spec.
    """

    name: str
    """Name of a task, or a .jsonl or .py file with a task of one's own."""
    rows: int | None = None
    """The first rows of the split; None takes prior.rows of the recipe."""
    scoring: str | None = None
    """One of SCORINGS; None is the task's own way."""
    reward: str | None = None
    """One of REWARDS; None is the task's own reward."""
    max_new_tokens: int | None = None
    """Cap on the tokens of an answer; None is the task's own."""
    grader: str | None = None
    """One of GRADERS, for a .jsonl file; None where the task knows itself."""
    split: str | None = None
    """One of SPLITS; None takes test, else validation."""
    data_dir: str | None = None
    """Folder of <file>.<split>.jsonl for this task; None takes the run's."""

    def __str__(self) -> str:
        head = _written(self.name, plain=_head(self.name) == (self.name, None))
        if self.rows is not None:
            head += f":{self.rows}"
        values = {key: str(getattr(self, key)) for key in _KEYS if getattr(self, key) is not None}
        settings = [
            f"{key}={_written(value, plain=_unquoted(value) == value)}"
            for key, value in values.items()
        ]
        return " ".join([head, *settings])

    @property
    def task(self) -> str:
        """Name of the task: of a file, without its folder and ending."""
        return Path(self.name).stem if self.name.endswith(OWN) else self.name


def parse_prior_line(text: str) -> PriorSpec:
    """Return the prior task that a line names.

    The name ends at the first word that begins `key=`, rows stand behind its last colon; a colon
    within a path is part of the path. What would read otherwise stands in double quotes:
    "a b=c.jsonl":20 data_dir="x y=z".

    Raises:
        SettingsError: with all that is wrong with the line.
    """
    line = _Line(text)
    first, *rest = _pieces(text.strip())
    name, rows = _head(first)
    if not name.strip():
        line.refuse("has no name", "the name of a task or a .jsonl or .py file", "gsm8k:100")
    values = line.settings(rest)
    if rows is not None:
        values["rows"] = _whole(rows)
        if values["rows"] is None:
            line.refuse(f"has rows {as_toml(rows)}", f"{_COUNT}, of at most 9 digits", "gsm8k:100")
    if values.get("reward") == "prob" and values.get("scoring") in ("generate", "exact"):
        scoring = values["scoring"]
        line.refuse(
            'has reward "prob"',
            f'"correct" or "logprob": scoring "{scoring}" has no probability of an option',
            "arc reward=prob scoring=choice",
        )
    if line.problems:
        raise SettingsError(line.problems)
    return PriorSpec(name=name, **values)


def repeated(specs: Sequence[PriorSpec | None]) -> list[tuple[int, int]]:
    """Return the places of prior tasks that are there before, each with the place before.

    Names count as equal where the files of their rows would have one name: a_b and A-b.
    """
    first: dict[str, int] = {}
    found = []
    for place, spec in enumerate(specs):
        if spec is not None and first.setdefault(slug(spec.task), place) != place:
            found.append((place, first[slug(spec.task)]))
    return found


class _Line:
    """Collects what is wrong with a line."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.problems: list[Problem] = []

    def refuse(self, found: str, expected: str, example: str) -> None:
        self.add(f"{found}, expected {expected}", f"for example {example}")

    def add(self, what: str, hint: str) -> None:
        message = f"{shown(self.text)} {what}"
        self.problems.append(Problem(keys=("prior.tasks",), message=message, hint=hint))

    def settings(self, pieces: list[str]) -> dict[str, str | int | None]:
        """Return the values of key=value pieces, those that are wrong as None."""
        values: dict[str, str | int | None] = {}
        for piece in pieces:
            key, raw = (part.strip() for part in piece.split("=", 1))
            if key not in _KEYS:
                self._unknown(key, raw)
            elif key in values:
                self.add(f"has {key} twice, expected it once", f"take one {key} out")
            else:
                values[key] = self._value(key, _unquoted(raw))
        return values

    def _value(self, key: str, raw: str) -> str | int | None:
        if key in _WORDS:
            value = raw if raw in _WORDS[key] else None
            expected = " or ".join(as_toml(word) for word in _WORDS[key])
            example = nearest(raw, _WORDS[key]) or _WORDS[key][0]
        elif key == "max_new_tokens":
            value, expected, example = _whole(raw), _COUNT, "64"
        else:
            value, expected, example = raw if raw.strip() else None, "a folder", "data"
        if value is None:
            self.refuse(f"has {key} {as_toml(raw)}", expected, f"{key}={example}")
        return value

    def _unknown(self, key: str, raw: str) -> None:
        meant = nearest(key.replace("-", "_"), _KEYS)
        hint = f"did you mean {meant}?" if meant is not None else f"take {key} out"
        if key == "rows":
            hint = f"rows stand behind the name: gsm8k:{raw or 100}"
        self.add(f"has {key}, which is no setting, expected one of: {', '.join(_KEYS)}", hint)


def _pieces(text: str) -> list[str]:
    """Return the name with its rows, and each key=value; none begins within quotes."""
    starts = [
        (each.start(), each.end())
        for each in _SETTING.finditer(text)
        if text.count('"', 0, each.start()) % 2 == 0
    ]
    edges = [0, *(end for _, end in starts)], [*(start for start, _ in starts), len(text)]
    return [text[start:end] for start, end in zip(*edges, strict=True)]


def _head(text: str) -> tuple[str, str | None]:
    """Return the name and what stands for its rows; None where nothing does."""
    quoted = re.fullmatch(r'"([^"]*)"\s*(?::(.*))?', text, re.DOTALL)
    if quoted:
        return quoted[1], quoted[2] if quoted[2] is None else quoted[2].strip()
    name, colon, rows = text.rpartition(":")
    # C:\x.jsonl and a:b.jsonl have a colon of their own.
    if not colon or text.endswith(OWN) or re.search(r"[/\\]", rows):
        return text, None
    return name.rstrip(), rows.strip()


def _unquoted(text: str) -> str:
    quoted = re.fullmatch(r'"([^"]*)"', text)
    return quoted[1] if quoted else text


def _written(text: str, *, plain: bool) -> str:
    """Return a text as it stands in a line: in quotes unless it is `plain`, and no more than it."""
    comment = text.startswith("#") or re.search(r"\s#", text)
    plain = plain and not comment and text == text.strip() and _pieces(text) == [text]
    return text if plain or '"' in text else f'"{text}"'


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) and int(text) else None
