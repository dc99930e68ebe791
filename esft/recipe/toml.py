"""How a recipe is kept as TOML text."""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path

from esft.errors import RecipeError
from esft.recipe.check import Problem, SettingsError, as_toml, nearest, shown
from esft.recipe.settings import (
    Anchor,
    Model,
    Prior,
    Recipe,
    Run,
    Search,
    TaskSettings,
    peak_problems,
    pull_problems,
)

_TABLES = {
    "model": Model,
    "task": TaskSettings,
    "search": Search,
    "anchor": Anchor,
    "prior": Prior,
    "run": Run,
}
_KEYS = {table: [each.name for each in fields(kind)] for table, kind in _TABLES.items()}
_NOT_SET = {
    "model.dtype": "the checkpoint's own",
    "model.device": "the best there is: cuda, mps or cpu",
    "model.include": "every floating-point parameter",
    "model.exclude": "none is left out",
    "task.grader": "the task's own",
    "task.train": "200, or what there is",
    "task.holdout": "200, or what there is",
    "task.rows_per_step": "all train rows in every step",
    "task.scoring": "the task's own way",
    "task.reward": "the task's own reward",
    "task.max_new_tokens": "the task's own cap",
    "task.data_dir": "ESFT_DATA_DIR where it is set, else where the task has its rows",
    "task.batch": "64, halved where memory runs out",
    "search.seed": "one is drawn and recorded",
    "prior.every": "before the first step and after the last alone",
    "anchor.drift_store": "where the base weights lie, the CPU where they are on disk",
    "run.dir": "a new folder under runs/",
    "run.stop_after_peak": "the run goes on to its last step",
}


def load_recipe(
    name: str | None, changes: Mapping[str, object], *, labels: Mapping[str, str] | None = None
) -> Recipe:
    """The recipe called `name` with `changes` in place of its values.

    Args:
        name: a .toml file or another file, or a shipped recipe; None starts from the defaults.
        changes: "table.key" to value, only those given.
        labels: "table.key" to where the user gave that change, such as "--sigma", for errors;
            a change without one is named as "--set table.key".

    Raises:
        RecipeError: no such recipe, no TOML, or a SettingsError with all that is wrong in it.
    """
    file = None if name is None else find_recipe(name)
    draft = _Draft(file)
    if file is not None:
        draft.add_tables(_read_toml(file))
    for key, value in changes.items():
        draft.add_change(key, value, (labels or {}).get(key, f"--set {key}"))
    return draft.finish()


def shipped_recipes() -> dict[str, Path]:
    """Name to file of every recipe that comes with esft."""
    here = Path(__file__).resolve().parents[1]
    # Installed they lie inside the package, in a checkout beside it.
    folder = here / "recipes" if (here / "recipes").is_dir() else here.parent / "recipes"
    files = sorted(folder.rglob("*.toml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def find_recipe(name: str) -> Path:
    """The file that `name` means: a .toml file, another file that exists, or a shipped recipe."""
    if os.path.isfile(name):  # unlike Path.is_file, False for a name too long to be one
        return Path(name)
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    meant = nearest(name.removesuffix(".toml"), shipped)
    hint = "give the path of a .toml file, or --model and --task without a recipe"
    if meant is not None:
        hint = f'did you mean the recipe "{meant}"?'
    if name.endswith(".toml"):
        raise RecipeError(f"{name}: no such file", hint=hint)
    listed = ", ".join(shipped) or "(none is installed)"
    raise RecipeError(
        f"no recipe is called {shown(name)}, expected a file or one of: {listed}", hint=hint
    )


def parse_change(text: str) -> tuple[str, object]:
    """("table.key", value) of "table.key=value"; a value that is no TOML is text as it stands."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    table, _, setting = key.partition(".")
    if not equals or not table or not setting or "." in setting:
        home = _home(key)
        hint = "for example --set search.sigma=0.002"
        if equals and home is not None:
            hint = f"write --set {home}.{text}"
        raise RecipeError(f"--set {text}: expected table.key=value", hint=hint)
    return key, _parse_value(raw)


def dump_recipe(recipe: Recipe) -> str:
    """TOML text with every setting, defaults too; load_recipe gives an equal recipe from it."""
    blocks = []
    for table, keys in _KEYS.items():
        settings = getattr(recipe, table)
        lines = [_line(table, key, getattr(settings, key)) for key in keys]
        blocks.append("\n".join([f"[{table}]", *lines]) + "\n")
    return "\n".join(blocks)


def settings_of(recipe: Recipe) -> dict[str, object]:
    """Every setting of a recipe as "table.key" to its value, lists for tuples."""
    return {
        f"{table}.{key}": list(value) if isinstance(value, tuple) else value
        for table, keys in _KEYS.items()
        for key in keys
        for value in [getattr(getattr(recipe, table), key)]
    }


class _Draft:
    """The values of a recipe before they are checked: what they are, who gave them."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.values: dict[str, dict[str, object]] = {table: {} for table in _TABLES}
        self.origins: dict[str, str] = {}  # "table.key" -> the file or option it comes from
        self.problems: list[Problem] = []

    def add_tables(self, tables: Mapping[str, object]) -> None:
        for table, body in tables.items():
            if table in _TABLES and isinstance(body, dict):
                self.values[table] |= body
                self.origins |= {f"{table}.{key}": str(self.file) for key in body}
            elif isinstance(body, dict):
                self._refuse_table(table, table)
            else:
                self._refuse_bare(table, body)

    def add_change(self, key: str, value: object, label: str) -> None:
        self.origins[key] = label
        table, _, setting = key.partition(".")
        if table in _TABLES:
            self.values[table][setting] = value
        else:
            self._refuse_table(table, key)

    def finish(self) -> Recipe:
        """The checked recipe, or SettingsError with every problem and where it comes from."""
        parts = {table: self._build(table) for table in _TABLES}
        self._check_together(("search.alpha", "anchor.awd", "anchor.norm"), pull_problems)
        self._check_together(("run.stop_after_peak", "prior.every"), peak_problems)
        if self.problems:
            raise SettingsError(self._placed(problem) for problem in self.problems)
        return Recipe(**parts)

    def _build(self, table: str) -> object:
        keys = _KEYS[table]
        given = self.values[table]
        for key in given:
            if key not in keys:
                self._refuse_key(table, key)
        try:
            # None for a setting without a default: the table says that it is not set.
            return _TABLES[table](**{key: given.get(key, _default(table, key)) for key in keys})
        except SettingsError as error:
            self.problems += error.problems
            return None

    def _check_together(
        self, keys: tuple[str, ...], check: Callable[..., tuple[Problem, ...]]
    ) -> None:
        """Add what is wrong with settings of several tables, where each is right by itself."""
        wrong = {key for problem in self.problems for key in problem.keys}
        if wrong.isdisjoint(keys):
            split = [key.split(".") for key in keys]
            values = [self.values[table].get(key, _default(table, key)) for table, key in split]
            self.problems += check(*values)

    def _refuse_table(self, table: str, key: str) -> None:
        listed = ", ".join(_TABLES)
        home = nearest(table, _TABLES)
        hint = None if home is None else f"did you mean [{home}]?"
        message = f"[{table}] is no table of a recipe, expected one of: {listed}"
        self.problems.append(Problem(keys=(key,), message=message, hint=hint))

    def _refuse_key(self, table: str, key: str) -> None:
        value, listed = shown(self.values[table][key]), ", ".join(_KEYS[table])
        message = f"[{table}] {key} = {value} is no setting, expected one of: {listed}"
        meant, home = nearest(key, _KEYS[table]), _home(key)
        hint = f"take {key} out"
        if home is not None:
            hint = f"{key} belongs under [{home}]"
        elif meant is not None:
            hint = f"did you mean {meant}?"
        self.problems.append(Problem(keys=(f"{table}.{key}",), message=message, hint=hint))

    def _refuse_bare(self, key: str, value: object) -> None:
        home = key if key in _TABLES else _home(key)
        hint = f"begin a table with a line [{home or 'search'}], its settings on the lines below"
        message = f"{key} is {shown(value)}, expected tables of settings: {', '.join(_TABLES)}"
        self.problems.append(Problem(keys=(key,), message=message, hint=hint))

    def _placed(self, problem: Problem) -> Problem:
        """`problem` with the places its values come from before its message."""
        found = dict.fromkeys(self.origins[key] for key in problem.keys if key in self.origins)
        if not found and self.file is not None:
            found = {str(self.file): None}
        place = f"{', '.join(found)}: " if found else ""
        return replace(problem, message=f"{place}{problem.message}")


def _read_toml(file: Path) -> dict[str, object]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{file}: not UTF-8 at byte {error.start}, expected TOML text",
            hint="save the recipe in UTF-8",
        ) from error
    try:
        return tomllib.loads(text)
    except ValueError as error:
        last = f"line {text.count(chr(10)) + 1}, the last one"
        raise RecipeError(
            f"{file}: not valid TOML: {str(error).replace('end of document', last)}",
            hint='a setting reads key = value below its [table]; text is quoted: name = "arc"',
        ) from error


def _parse_value(raw: str) -> object:
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except ValueError:
        return raw.strip()
    value = parsed.pop("value")
    # No setting is a date or a table, so those are text too: --set run.dir=2026-03-01
    plain = not parsed and isinstance(value, bool | int | float | str | list)
    return value if plain else raw.strip()


def _line(table: str, key: str, value: object) -> str:
    if value is None:
        return f"# {key} = (not set: {_NOT_SET[f'{table}.{key}']})"
    return f"{key} = {as_toml(value)}"


def _default(table: str, key: str) -> object:
    return getattr(_TABLES[table], key, None)


def _home(key: str) -> str | None:
    return next((table for table, keys in _KEYS.items() if key in keys), None)
