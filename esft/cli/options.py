"""The options of the commands, shown under the heading of their group."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from functools import reduce

import click
from click.shell_completion import CompletionItem

from esft.recipe.check import Setting
from esft.recipe.priors import read_priors
from esft.recipe.settings import TABLES, Recipe
from esft.recipe.toml import load_recipe, parse_change, shipped_recipes

TYPES = {"str": str, "int": int, "float": float}


class GroupedOption(click.Option):
    """An option that knows its group."""

    def __init__(self, *args, group: str, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class GroupedCommand(click.Command):
    """Shows its options under the headings of their groups, and keeps what was typed as `obj`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def typed_with(
    ctx: click.Context, without: tuple[str, ...], *added: str, command: str | None = None
) -> str:
    """Return the command as it was typed, without some options and their values, and with others;
    or another `command` with what was typed, but for --json."""
    words, kept = iter(ctx.obj), []
    for word in words:
        if word in without:
            next(words, None)
        elif word == "--json" and command is not None:
            continue
        elif not word.startswith(tuple(f"{option}=" for option in without)):
            kept.append(word)
    path = ctx.command_path.split()
    if command is not None:
        path[-1] = command
    return shlex.join([*path, *kept, *added])


def recipe_of(
    ctx: click.Context, name: str | None, fallback: Mapping[str, object] | None = None
) -> Recipe:
    """Return the recipe `name` with the values of `--set` and of the plainer options above it.

    `fallback` has values for where nothing else says them.
    """
    changes, labels = typed_settings(ctx)
    return load_recipe(name, {**(fallback or {}), **changes}, labels=labels)


def typed_settings(ctx: click.Context) -> tuple[dict[str, object], dict[str, str]]:
    """Return the settings that a command was given, as "table.key" to value, and the options that
    gave them, those of `--set` not among them."""
    changes, labels = dict(map(parse_change, ctx.params["set"])), {}
    for table, setting in with_flags():
        value = ctx.params[setting.flag[2:].replace("-", "_")]
        if value is not None:
            changes[f"{table}.{setting.name}"] = value
            labels[f"{table}.{setting.name}"] = setting.flag
    return changes, labels


def as_options(changes: Mapping[str, object]) -> list[str]:
    """Return the words of a command line that set these settings, "table.key" to value."""
    flags = {f"{table}.{setting.name}": setting.flag for table, setting in with_flags()}
    words = []
    for key, value in changes.items():
        text = f"{value:g}" if isinstance(value, float) else str(value)
        words += [flags[key], text] if key in flags else ["--set", f"{key}={text}"]
    return words


def completes(names: Callable[[], Iterable[str]]) -> Callable:
    """Return what completes a word to one of some names, or to a file."""

    def complete(ctx: click.Context, parameter: click.Parameter, word: str) -> list[CompletionItem]:
        fitting = [CompletionItem(name) for name in names() if name.startswith(word)]
        return [*fitting, CompletionItem(word, type="file")]

    return complete


def _run_names() -> list[str]:
    from esft.runs.names import list_runs

    return [run.name for run in list_runs()]


def _task_names() -> list[str]:
    from esft.tasks.registry import task_names

    return task_names()


complete_runs, complete_tasks = completes(_run_names), completes(_task_names)
complete_recipes = completes(shipped_recipes)
run_argument = click.argument("run", required=False, shell_complete=complete_runs)


def grouped(group: str, *flags: str, help: str, **kwargs) -> Callable:
    """Return an option that stands under the heading `group`."""
    kwargs.setdefault("show_default", "default" in kwargs)
    return click.option(*flags, cls=GroupedOption, group=group, help=help, **kwargs)


def together(*options: Callable) -> Callable:
    """Return one decorator of several options, in this order."""
    return lambda command: reduce(lambda inner, option: option(inner), options[::-1], command)


def declared_settings(word: str = "") -> list[tuple[str, Setting]]:
    """Return every setting that has `word` in its name, option, choices or help, with its table."""
    return [
        (table, one)
        for table, kind in TABLES.items()
        for one in kind.declared().values()
        if word.lower() in f"{table}.{one.name} {one.flag or ''} {one.takes} {one.help}".lower()
    ]


def with_flags() -> list[tuple[str, Setting]]:
    """Return each setting that has an option, with its table."""
    return [(table, one) for table, one in declared_settings() if one.flag is not None]


def setting_options(command: Callable) -> Callable:
    """Give a command the options that replace settings, described as they are declared."""
    return together(*(_setting_option(table, setting) for table, setting in with_flags()))(command)


def _setting_option(table: str, setting: Setting) -> Callable:
    text = setting.help
    if setting.choices:
        text += f": {', '.join(setting.choices[:-1])} or {setting.choices[-1]}"
    text += "." if setting.default_text is None else f"  [default: {setting.default_text}]"
    several = {"multiple": True, "metavar": "FILE|TASK"}
    # None where none are given: those of the recipe stay.
    several["callback"] = lambda ctx, parameter, given: read_priors(given) if given else None
    return grouped(
        "Prior tasks" if table == "prior" else table.capitalize(),
        setting.flag,
        help=text,
        shell_complete=complete_tasks if setting.flag in ("--task", "--prior") else None,
        **(several if setting.name == "tasks" else {"type": TYPES[setting.kind]}),
    )


class SigmaOrAuto(click.ParamType):
    """A noise scale, or the word auto."""

    name = "float or auto"

    def get_metavar(self, *_: object, **__: object) -> str:
        return "FLOAT|auto"

    def convert(self, value: object, parameter: click.Parameter | None, ctx: click.Context | None):
        return value if value == "auto" else click.FLOAT.convert(value, parameter, ctx)


def sigma_or_auto(command: click.Command) -> click.Command:
    """Let the --sigma of a command take auto, too."""
    option = next(one for one in command.params if one.name == "sigma")
    option.type = SigmaOrAuto()
    option.help += "  Auto tries members at three first, and chooses alpha where no recipe has it."
    return command


prior_option = _setting_option("prior", TABLES["prior"].declared()["tasks"])
set_option = grouped(
    "Run",
    "--set",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Replace any setting of a recipe; may be repeated.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."
)
device_option = grouped(
    "Model", "--device", help="cuda, mps or cpu  [default: the run's, else the first]"
)
rebuild_options = together(
    grouped(
        "Model",
        "--at",
        default="last",
        help="Step: best (by holdout reward), last or a number; 0 is the base model.",
    ),
    grouped("Model", "--model", help="Base model, where it is not found as the run named it."),
    device_option,
    grouped(
        "Model", "--from-base", is_flag=True, help="Make every step again, without the snapshots."
    ),
)
