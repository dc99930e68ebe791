"""`esft recipes` and `esft settings`: what a run can be told, ready-made and one by one."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from esft.cli.options import complete_recipes, declared_settings, json_option
from esft.cli.show import wrapped
from esft.errors import RecipeError
from esft.recipe.check import Setting, as_toml, nearest, shown
from esft.recipe.settings import TABLES, settings_of
from esft.recipe.stages import tuned_on
from esft.recipe.toml import copy_recipe, find_recipe, load_recipe, shipped_recipes, summary_of
from esft.rollout.typed import json_text


@click.group(invoke_without_command=True, short_help="List, show, copy and check recipes.")
@json_option
@click.pass_context
def recipes(ctx: click.Context, as_json: bool) -> None:
    """List the recipes that come with esft, a line each. A recipe is a file of settings, which
    esft tune runs by its name or path; to make one of your own, copy the nearest and change it.

    \b
    Examples:
      esft recipes
      esft recipes show quickstart
      esft recipes copy quickstart my.toml
      esft recipes check my.toml
    """
    if ctx.invoked_subcommand is not None:
        return
    listed = {name: summary_of(file) for name, file in shipped_recipes().items()}
    if as_json:
        records = [{"name": name, "summary": summary} for name, summary in listed.items()]
        click.echo(json_text(records))
        return
    width = max(map(len, listed), default=0)
    for name, summary in listed.items():
        click.echo(wrapped(f"{name:<{width}}  ", summary))


@recipes.command(short_help="Print a recipe.")
@click.argument("name", shell_complete=complete_recipes)
def show(name: str) -> None:
    """Print the recipe NAME as it is, with its comments."""
    click.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@recipes.command(short_help="Copy a recipe, to change it.")
@click.argument("name", shell_complete=complete_recipes)
@click.argument("file", type=click.Path(path_type=Path))
def copy(name: str, file: Path) -> None:
    """Copy the recipe NAME to a new FILE, to be changed and run by esft tune FILE."""
    copy_recipe(name, file)
    click.echo(wrapped("", f"{file}: change what you like; esft recipes check {file}, then"))
    click.echo(f"esft tune {file}")


@recipes.command(short_help="Say all that is wrong with a recipe.")
@click.argument("file")
def check(file: str) -> None:
    """Say all that is wrong with the recipe FILE at once: settings, and whether its tasks exist.
    Exit code 2 where something is wrong. No model is looked for, no row of the hub is read.
    """
    recipe = load_recipe(file, {}, tasks=True)
    search = recipe.search
    what = f"{recipe.model.id} on {tuned_on(settings_of(recipe))}"
    what += f", {search.steps} steps of {search.population}"
    click.echo(wrapped("", f"{file}: nothing wrong; {what} members"))
    click.echo(wrapped("", f"Will it fit, and how long will it take? esft plan {file}"))


@click.command(short_help="List every setting of a run, or search them.")
@click.argument("word", required=False)
@json_option
def settings(word: str | None, as_json: bool) -> None:
    """List every setting with its default, what it takes and what it does; with WORD, those that
    have it in their name, option or help.

    A setting stands in a recipe as KEY = VALUE below its [TABLE]; --set TABLE.KEY=VALUE replaces
    it, and so does its option where it has one.

    \b
    Examples:
      esft settings
      esft settings seed
      esft settings reward
    """
    found = declared_settings(word or "")
    if not found:
        names = [setting.name for _, setting in declared_settings()]
        meant = nearest(word, names)
        hint = "esft settings lists them all" if meant is None else f"did you mean {meant}?"
        raise RecipeError(f"no setting has {shown(word)} in its name or help", hint=hint)
    if as_json:
        click.echo(json_text([_record(table, setting) for table, setting in found]))
        return
    for table in dict.fromkeys(table for table, _ in found):
        click.echo(wrapped("", f"[{table}] {_about(table)}"))
        for setting in (setting for home, setting in found if home == table):
            click.echo(_text(setting))


def _about(table: str) -> str:
    """Return what the table is about, in a line."""
    return TABLES[table].__doc__.partition(":")[0]


def _text(setting: Setting) -> str:
    option = f"  ({setting.flag})" if setting.flag else ""
    default = setting.default_text if setting.kind == "float" else as_toml(setting.default)
    value = f"{setting.name} = {default}"
    if setting.default is None:
        value = f"{setting.name}: not set, {setting.unset}" if setting.unset else setting.name
    head = wrapped("  ", value + option, subsequent_indent="    ")
    return f"{head}\n{wrapped(' ' * 6, f'{setting.help}  [{setting.takes}]')}"


def _record(table: str, setting: Setting) -> dict[str, object]:
    """Return a setting for JSON; bounds that are infinite, or beyond all numbers, are null."""
    kept = ("name", "kind", "default", "unset", "flag", "choices", "help", "example", "takes")
    at_most = setting.at_most if setting.at_most < sys.float_info.max else None
    bounds = {"at_least": setting.at_least, "above": setting.above, "at_most": at_most}
    return {"table": table} | {name: getattr(setting, name) for name in kept} | bounds
