"""How a recipe is kept as TOML text."""

import os
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from esft.errors import RecipeError, TakenError
from esft.files import write_whole
from esft.models.device import FLOAT
from esft.recipe import check
from esft.recipe.check import Problem, SettingsError, as_toml, nearest, shown
from esft.recipe.priors import require_task
from esft.recipe.rules import RECIPE_RULES
from esft.recipe.search import CODED_SCALES
from esft.recipe.settings import TABLES, Recipe, Search
from esft.recipe.stages import TABLE, Stage, read_stages

PACKAGE = Path(__file__).resolve().parents[1]


def load_recipe(
    name: str | None,
    changes: Mapping[str, object],
    *,
    labels: Mapping[str, str] | None = None,
    tasks: bool = False,
) -> Recipe:
    """The recipe called `name` with `changes` in place of its values.

    Args:
        name: a .toml file or another file, or a shipped recipe; None starts from the defaults.
        changes: "table.key" to value, only those given.
        labels: "table.key" to where the user gave that change, such as "--sigma", for errors;
            a change without one is named as "--set table.key".
        tasks: look also whether its tasks exist, and can be graded and scored as it says.

    Raises:
        RecipeError: no such recipe, not TOML, or a SettingsError with all that is wrong in it.
    """
    file = None if name is None else find_recipe(name)
    values: dict[str, object] = {}
    strange: dict[str, object] = {}
    problems: list[Problem] = []
    content = {} if file is None else _read_toml(file)
    changes = dict(changes)
    of_stages = content.pop(TABLE, changes.pop(TABLE, None))
    for table, body in content.items():
        if table in TABLES and isinstance(body, dict):
            values |= {f"{table}.{key}": value for key, value in body.items()}
        else:
            strange[table] = body
    problems += check.first_of(strange, _not_a_table, "tables of a recipe")
    origins = dict.fromkeys(values, str(file))
    of_file = _units(values)
    origins |= {change: (labels or {}).get(change, f"--set {change}") for change in changes}
    table_of = {change: change.partition(".")[0] for change in changes}
    values |= {change: value for change, value in changes.items() if table_of[change] in TABLES}
    problems += (
        _not_a_table(table, {}, change) for change, table in table_of.items() if table not in TABLES
    )
    _fit_scales_(values, of_file, changes)
    known = {table: kind.declared() for table, kind in TABLES.items()}
    stages, wrong = read_stages(of_stages, known, values.get("search.steps", Search.steps))
    said = set(changes) if file is not None and stages else set()
    if not wrong and not all("steps" in body for body in of_stages or ()):
        said -= {"search.steps"}  # it is that of the stages that name none
    problems += wrong or _fit_stages_(values, stages, said)
    tables = {table: _build(table, values, problems) for table in TABLES}
    defaults = {
        f"{table}.{key}": setting.default
        for table, settings in known.items()
        for key, setting in settings.items()
    }
    problems += check.broken(RECIPE_RULES, defaults | values, problems)
    problems += _task_problems(tables) if tasks else ()
    recipe = None if problems else _made(tables, stages, problems)
    if tasks and stages and recipe is not None:
        each = [{**tables, "task": task} for task in recipe.targets]
        problems += [problem for one in each for problem in _task_problems(one)]
    if problems:
        raise SettingsError([_placed(problem, origins, file) for problem in problems])
    return recipe


def _placed(problem: Problem, origins: Mapping[str, str], file: Path | None) -> Problem:
    """Return a problem that says where the user gave what is wrong."""
    places = dict.fromkeys(origins[key] for key in problem.keys if key in origins)
    head = ", ".join(places) or (file and str(file))
    return problem._replace(text=f"{head}: {problem.text}") if head else problem


def _made(
    tables: Mapping[str, object], stages: tuple[Stage, ...], problems: list[Problem]
) -> Recipe | None:
    """Return the recipe of its tables; None where they do not go together, with `problems`."""
    if not stages and tables["anchor"].move == "stage":
        text = '[anchor] move is "stage", expected "none" or "ema": there are no stages'
        fix = 'set move = "ema", or write [[stage]] tables'
        problems.append(Problem(("anchor.move",), text, fix))
        return None
    try:
        return Recipe(**tables, stages=stages)
    except SettingsError as error:
        problems += error.problems
    return None


def _fit_stages_(
    values: dict[str, object], stages: tuple[Stage, ...], said: Collection[str]
) -> Iterator[Problem]:
    """Give the tables of a chain what its stages say of them all: their steps, and a task.

    Yield what is `said` beside the file in vain, since every stage says something else.
    """
    if not stages:
        return
    for key in sorted(said):
        if key == "search.steps" or all(key in stage.changes for stage in stages):
            text = f"{key} is {shown(values.get(key))}, expected none: each stage says its own"
            yield Problem((key,), text, f"change it in the [[{TABLE}]] tables")
    values["search.steps"] = sum(stage.steps for stage in stages)
    named = [stage.changes["task.name"] for stage in stages if "task.name" in stage.changes]
    if named:
        values.setdefault("task.name", named[0])


def _fit_scales_(values: dict[str, object], was: object, changed: Collection[str]) -> None:
    """Put sigma and alpha in the units of the noise, where nothing says them in these.

    What a file has is in its own units, `was`, not of those that a change makes of them: then it
    goes, but for an L2 decay, which keeps its share of the drift a step, alpha * awd.
    """
    now = _units(values)
    if not isinstance(now, str):
        return
    before, awd = values.get("search.alpha"), values.get("anchor.awd")
    scales = CODED_SCALES.get(now, (Search.sigma, Search.alpha))
    for key, scale in zip(("search.sigma", "search.alpha"), scales, strict=True):
        if key not in changed and (was != now or (key not in values and now != FLOAT)):
            values[key] = scale
    kept = was != now and values.get("anchor.norm") == "l2" and "anchor.awd" not in changed
    numbers = (before, awd, values.get("search.alpha"))
    if kept and all(isinstance(number, (int, float)) for number in numbers):
        values["anchor.awd"] = before * awd / numbers[2]


def _units(values: Mapping[str, object]) -> object:
    """Return what sigma and alpha are in: steps of these codes' grid, or units of floats, as they
    are with noise of low rank of codes too."""
    low_rank = values.get("search.noise") == "lowrank"
    return FLOAT if low_rank else values.get("model.weights", FLOAT)


def settings_in(name: str | None) -> frozenset[str]:
    """Return the settings that the recipe called `name` has, as "table.key"; see `load_recipe`."""
    tables = {} if name is None else _read_toml(find_recipe(name))
    tables.pop(TABLE, None)
    return frozenset(f"{table}.{key}" for table, body in tables.items() for key in body)


def _task_problems(tables: Mapping[str, object]) -> Iterator[Problem]:
    """Yield what is wrong with the tasks named by those tables that are right by themselves."""
    target, prior, anchor = tables["task"], tables["prior"], tables["anchor"]
    asked = [] if target is None else [("task.name", target)]
    asked += [] if prior is None else [("prior.tasks", spec) for spec in prior.specs]
    sources = () if anchor is None else anchor.kl_sources
    asked += [("anchor.kl_tasks", one) for one in sources if not isinstance(one, Path)]
    for key, one in asked:
        try:
            require_task(one)
        except SettingsError as error:
            for problem in error.problems:
                text = f"[{key.partition('.')[0]}] {problem.text}"
                yield problem._replace(keys=(key,), text=text)


def summary_of(file: Path) -> str:
    """What a recipe says of itself: the first line of its opening comment."""
    first = check.read_text(file).partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def copy_recipe(name: str, file: Path) -> None:
    """Write a recipe to a new file, as it is with its comments."""
    text = check.read_text(find_recipe(name))
    refuse_taken(file)
    write_whole(file, text)


def write_recipe(recipe: Recipe, file: Path, summary: str) -> None:
    """Write a recipe to a new file, below a comment that says what it is."""
    refuse_taken(file)
    write_whole(file, f"# {summary}\n\n{dump_recipe(recipe)}")


def refuse_taken(file: Path) -> None:
    """Raise TakenError for a file that exists."""
    if file.exists():
        raise TakenError(f"{file} exists, expected a new file", hint="name another file")


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
    listed = ", ".join(shipped) or "(none is installed)"
    message = f"no recipe is called {shown(name)}, expected a file or one of: {listed}"
    if name.endswith(".toml"):
        message = f"{check.cut(name)}: no such file"
    raise RecipeError(message, hint=hint)


def parse_change(text: str) -> tuple[str, object]:
    """("table.key", value) of "table.key=value"; one that is not TOML is text as it stands."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    table, _, setting = key.partition(".")
    if not equals or not table or not setting or "." in setting:
        home = _home(key) if equals else None
        hint = f"write --set {home}.{text}" if home else "for example --set search.sigma=0.002"
        raise RecipeError(f"--set {check.cut(text)}: expected table.key=value", hint=hint)
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        return key, raw.strip()
    value = parsed.pop("value")
    # No setting is a date or a table, so those are text too: --set run.dir=2026-03-01
    plain = not parsed and isinstance(value, bool | int | float | str | list)
    return key, value if plain else raw.strip()


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
    return "\n".join([*blocks, *(stage.toml for stage in recipe.stages)])


def _build(table: str, values: Mapping[str, object], problems: list[Problem]) -> object:
    """Return the table with its values; None where some are wrong, which `problems` get."""
    declared, head = TABLES[table].declared(), f"{table}."
    given = {key.removeprefix(head): values[key] for key in values if key.startswith(head)}

    def unknown(key: str, value: object) -> Problem:
        problem, home = check.unknown(table, key, value, declared), _home(key)
        return problem if home is None else problem._replace(hint=f"{key} belongs under [{home}]")

    strange = {key: given[key] for key in given if key not in declared}
    problems += check.first_of(strange, unknown, f"settings of [{table}]")
    try:
        return TABLES[table](**{key: given[key] for key in declared if key in given})
    except SettingsError as error:
        problems += error.problems
        return None


def _not_a_table(table: str, body: object, key: str | None = None) -> Problem:
    meant, name = nearest(table, TABLES), check.cut(table)
    hint = None if meant is None else f"did you mean [{meant}]?"
    text = f"[{name}] is not a table of a recipe, expected one of: {', '.join(TABLES)}"
    if not isinstance(body, dict):
        home = table if table in TABLES else _home(table) or "search"
        hint = f"begin a table with a line [{home}], its settings on the lines below"
        text = f"{name} is {shown(body)}, expected tables of settings: {', '.join(TABLES)}"
    return Problem((table if key is None else key,), text, hint)


def _read_toml(file: Path) -> dict[str, object]:
    text = check.read_text(file)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        last = f"line {text.count(chr(10)) + 1}, the last one"
        raise RecipeError(
            f"{file}: not valid TOML: {str(error).replace('end of document', last)}",
            hint='a setting reads key = value below its [table]; text is quoted: name = "arc"',
        ) from error


def _home(key: str) -> str | None:
    return next((table for table, kind in TABLES.items() if key in kind.declared()), None)
