"""How a recipe is kept as TOML text."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from esft.errors import RecipeError
from esft.recipe.check import Problem, SettingsError, as_toml, broken, nearest, shown, unknown
from esft.recipe.settings import RULES, TABLES, Recipe

PACKAGE = Path(__file__).resolve().parents[1]


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
        RecipeError: no such recipe, not TOML, or a SettingsError with all that is wrong in it.
    """
    file = None if name is None else find_recipe(name)
    draft = _Draft(file)
    if file is not None:
        draft.add_tables(_read_toml(file))
    for key, value in changes.items():
        draft.add_change(key, value, (labels or {}).get(key, f"--set {key}"))
    return draft.finish()


def shipped_recipes(package: Path = PACKAGE) -> dict[str, Path]:
    """Name to file of every recipe that comes with esft."""
    # Installed they lie inside the package, in a checkout beside it.
    inside = (package / "recipes").is_dir()
    folder = (package if inside else package.parent) / "recipes"
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
    """("table.key", value) of "table.key=value"; one that is not TOML is text as it stands."""
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
    for table, kind in TABLES.items():
        lines = [f"[{table}]"]
        for name, setting in kind.declared().items():
            value = getattr(getattr(recipe, table), name)
            unset = f"# {name} = (not set: {setting.unset})"
            lines.append(unset if value is None else f"{name} = {as_toml(value)}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


class _Draft:
    """The values of a recipe before they are checked: what they are, who gave them."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.values: dict[str, dict[str, object]] = {table: {} for table in TABLES}
        self.origins: dict[str, str] = {}  # "table.key" -> the file or option it comes from
        self.problems: list[Problem] = []

    def add_tables(self, tables: Mapping[str, object]) -> None:
        for table, body in tables.items():
            if not isinstance(body, dict):
                home = table if table in TABLES else _home(table) or "search"
                message = f"{table} is {shown(body)}, expected tables of settings: "
                hint = f"begin a table with a line [{home}], its settings on the lines below"
                self._refuse(table, message + ", ".join(TABLES), hint)
            elif table in TABLES:
                self.values[table] |= body
                self.origins |= {f"{table}.{key}": str(self.file) for key in body}
            else:
                self._refuse_table(table, table)

    def add_change(self, key: str, value: object, label: str) -> None:
        self.origins[key] = label
        table, _, setting = key.partition(".")
        if table in TABLES:
            self.values[table][setting] = value
        else:
            self._refuse_table(table, key)

    def finish(self) -> Recipe:
        """The checked recipe, or SettingsError with every problem and where it comes from."""
        parts = {table: self._build(table) for table in TABLES}
        values = {
            f"{table}.{name}": self.values[table].get(name, setting.default)
            for table, kind in TABLES.items()
            for name, setting in kind.declared().items()
        }
        self.problems += broken(RULES, values, self.problems)
        if self.problems:
            raise SettingsError(self._with_origins(problem) for problem in self.problems)
        return Recipe(**parts)

    def _build(self, table: str) -> object:
        given, declared = self.values[table], TABLES[table].declared()
        for key in [key for key in given if key not in declared]:
            problem, home = unknown(table, key, given[key], declared), _home(key)
            if home is not None:
                problem = replace(problem, hint=f"{key} belongs under [{home}]")
            self.problems.append(problem)
        try:
            return TABLES[table](**{key: given[key] for key in given if key in declared})
        except SettingsError as error:
            self.problems += error.problems
            return None

    def _refuse_table(self, table: str, key: str) -> None:
        home = nearest(table, TABLES)
        message = f"[{table}] is not a table of a recipe, expected one of: {', '.join(TABLES)}"
        self._refuse(key, message, None if home is None else f"did you mean [{home}]?")

    def _refuse(self, key: str, message: str, hint: str | None) -> None:
        self.problems.append(Problem(keys=(key,), message=message, hint=hint))

    def _with_origins(self, problem: Problem) -> Problem:
        """`problem` with the places its values come from before its message."""
        origins = dict.fromkeys(self.origins[key] for key in problem.keys if key in self.origins)
        if not origins and self.file is not None:
            origins = {str(self.file): None}
        head = f"{', '.join(origins)}: " if origins else ""
        return replace(problem, message=f"{head}{problem.message}")


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


def _home(key: str) -> str | None:
    """Return the table that has a setting of this name."""
    return next((table for table, kind in TABLES.items() if key in kind.declared()), None)
