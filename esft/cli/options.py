"""The options of the commands, a decorator a group, shown under the group's heading."""

import shlex
from collections.abc import Callable
from functools import reduce

import click

from esft.recipe.settings import Recipe
from esft.recipe.toml import load_recipe, parse_change

TYPED = "esft.typed"
"""Where a context keeps what was typed behind the command."""


class GroupedOption(click.Option):
    """An option that knows its group and the setting it replaces, if any."""

    def __init__(self, *args, group: str, setting: str | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.group = group
        self.setting = setting


class GroupedCommand(click.Command):
    """Shows its options under the headings of their groups, and keeps what was typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[TYPED] = list(args)
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


def typed_with(ctx: click.Context, without: tuple[str, ...], *added: str) -> str:
    """Return the command as it was typed, without the values of some options, and with others."""
    words = iter(ctx.meta[TYPED])
    kept = []
    for word in words:
        if word in without:
            next(words, None)
        elif not word.startswith(tuple(f"{option}=" for option in without)):
            kept.append(word)
    return shlex.join([*ctx.command_path.split(), *kept, *added])


def recipe_of(ctx: click.Context, name: str | None) -> Recipe:
    """Return the recipe `name` with the values of the options that were given.

    `--set` comes before the options of their own, which are plainer.

    Raises:
        RecipeError: with all that is wrong.
    """
    changes = dict(parse_change(text) for text in ctx.params.get("set", ()))
    labels = {}
    for option in ctx.command.params:
        if isinstance(option, GroupedOption) and option.setting is not None:
            value = ctx.params.get(option.name)
            if value is not None:
                changes[option.setting] = value
                labels[option.setting] = option.opts[0]
    return load_recipe(name, changes, labels=labels)


def _group(*options: Callable) -> Callable:
    def decorate(command: Callable) -> Callable:
        return reduce(lambda inner, option: option(inner), reversed(options), command)

    return decorate


def _option(group: str, flag: str, setting: str | None, help: str, **kwargs) -> Callable:
    return click.option(flag, cls=GroupedOption, group=group, setting=setting, help=help, **kwargs)


def model_options(command: Callable) -> Callable:
    """--model, --dtype, --device."""
    heading = "Model"
    return _group(
        _option(
            heading,
            "--model",
            "model.id",
            "Hub id, short name (Qwen2.5-1.5B), folder, .gguf file, or embedded, a tiny model that "
            "comes with esft.",
        ),
        _option(
            heading,
            "--dtype",
            "model.dtype",
            "float32, float16 or bfloat16  [default: the checkpoint's]",
        ),
        _option(
            heading,
            "--device",
            "model.device",
            "cuda, mps or cpu  [default: the first of them there is]",
        ),
    )(command)


def task_options(command: Callable) -> Callable:
    """--task, --grader, --data-dir."""
    heading = "Task"
    return _group(
        _option(
            heading,
            "--task",
            "task.name",
            "What to tune on: a name that `esft tasks` lists, or your own .jsonl or .py file.",
        ),
        _option(
            heading,
            "--grader",
            "task.grader",
            "How answers to a .jsonl file are graded: exact, contains, number, choice or math.",
        ),
        _option(
            heading,
            "--data-dir",
            "task.data_dir",
            "Folder of <task>.<split>.jsonl files  [default: $ESFT_DATA_DIR, else the task's own "
            "rows or the hub]",
        ),
    )(command)


def search_options(command: Callable) -> Callable:
    """--steps, --population, --sigma, --alpha, --seed."""
    heading = "Search"
    return _group(
        _option(heading, "--steps", "search.steps", "Updates  [default: 500]", type=int),
        _option(
            heading,
            "--population",
            "search.population",
            "Members per step  [default: 30]",
            type=int,
        ),
        _option(
            heading,
            "--sigma",
            "search.sigma",
            "Noise scale, standard deviation added to every weight  [default: 0.001]",
            type=float,
        ),
        _option(heading, "--alpha", "search.alpha", "Learning rate  [default: 0.0005]", type=float),
        _option(
            heading,
            "--seed",
            "search.seed",
            "Seed of the run, 0 or more  [default: drawn and recorded]",
            type=int,
        ),
    )(command)


def anchor_options(command: Callable) -> Callable:
    """--awd, --awd-norm."""
    heading = "Anchor"
    return _group(
        _option(
            heading,
            "--awd",
            "anchor.awd",
            "Anchored weight decay towards the base weights, per unit of alpha; 0 is off  "
            "[default: 0]",
            type=float,
        ),
        _option(
            heading,
            "--awd-norm",
            "anchor.norm",
            "l1 (a constant pull) or l2 (a share of the drift)  [default: l1]",
        ),
    )(command)


def _read_priors(
    ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...] | None:
    if not given:
        return None  # those of the recipe stay
    from esft.recipe.prior_file import read_priors

    return read_priors(given)


def prior_option(command: Callable) -> Callable:
    """--prior, whose value is the lines of the prior tasks; None where none are named."""
    return _option(
        "Prior tasks",
        "--prior",
        "prior.tasks",
        "What the model should not lose: a file with a task a line, or a task such as gsm8k:100; "
        "may be repeated.",
        multiple=True,
        metavar="FILE|TASK",
        callback=_read_priors,
    )(command)


def prior_options(command: Callable) -> Callable:
    """--prior, --prior-every."""
    return _group(
        prior_option,
        _option(
            "Prior tasks",
            "--prior-every",
            "prior.every",
            "Steps from one evaluation of target and prior tasks to the next  [default: before the "
            "first step and after the last]",
            type=int,
        ),
    )(command)


def run_options(command: Callable) -> Callable:
    """--run-dir, --stop-after-peak, --set, --json."""
    heading = "Run"
    return _group(
        _option(
            heading,
            "--run-dir",
            "run.dir",
            "Folder to make for the run  [default: runs/<task>-<model>-<number>]",
        ),
        _option(
            heading,
            "--stop-after-peak",
            "run.stop_after_peak",
            "End after so many evaluations (every prior.every steps) without a new best holdout "
            "reward  [default: go on to the last step]",
            type=int,
        ),
        _option(
            heading,
            "--set",
            None,
            "Replace any setting of a recipe; may be repeated.",
            multiple=True,
            metavar="TABLE.KEY=VALUE",
        ),
        _option(heading, "--json", None, "Print the result as JSON on stdout.", is_flag=True),
    )(command)


def rebuild_options(command: Callable) -> Callable:
    """--at, --from-base, --model, --device."""
    heading = "Model"
    return _group(
        _option(
            heading,
            "--at",
            None,
            "Step: best (by holdout reward), last or a number; 0 is the base model.",
            default="last",
            show_default=True,
        ),
        _option(heading, "--model", None, "Base model, where it is not found as the run named it."),
        _option(
            heading, "--device", None, "cuda, mps or cpu  [default: the run's, else the first]"
        ),
        _option(
            heading,
            "--from-base",
            None,
            "Make every step again, without the snapshots.",
            is_flag=True,
        ),
    )(command)
