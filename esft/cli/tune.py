"""`esft tune`: fine-tune a model."""

import json

import click

from esft.cli.options import (
    GroupedCommand,
    grouped,
    json_option,
    recipe_of,
    table_options,
    together,
    typed_with,
)
from esft.cli.outcome import outcome_record, outcome_text
from esft.cli.show import StopSignals, show_run
from esft.recipe.settings import TABLES


@click.command(cls=GroupedCommand, short_help="Fine-tune a model on a task.")
@click.argument("recipe", required=False)
@together(*map(table_options, TABLES))
@grouped(
    "Run",
    "--set",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Replace any setting of a recipe; may be repeated.",
)
@json_option
@click.pass_context
def tune(ctx: click.Context, recipe: str | None, as_json: bool, **options: object) -> None:
    """Fine-tune a model as RECIPE (a name or a .toml file) says; options replace its values.

    Leaves a run folder with the tuned model. Ctrl-C finishes the step in hand, saves the model
    and exits with 130; a second Ctrl-C stops at once.

    \b
    Examples:
      esft tune quickstart
      esft tune --model Qwen2.5-1.5B --task arc --awd 0.01
      esft tune arc-qwen2.5-1.5b --set search.sigma=0.002
      esft tune --model SmolLM2-135M-Instruct --task my.jsonl --grader number
      esft tune --model ./SmolLM2.gguf --task arc-easy --data-dir data \\
          --steps 5 --population 8 --run-dir out
    """
    settings = recipe_of(ctx, recipe)
    from esft.tuning.start import run_tuning  # torch comes with it: --help does not wait for it

    with StopSignals() as signals, show_run(signals) as watcher:
        outcome = run_tuning(settings, watcher, signals.asked)
    if as_json:
        click.echo(json.dumps(outcome_record(outcome)))
    else:
        click.echo(outcome_text(outcome))
        if settings.anchor.awd and outcome.priors:
            same = typed_with(ctx, ("--awd", "--run-dir"), "--awd", "0")
            click.echo(f"The same without AWD: {same}")
    if outcome.stopped:
        ctx.exit(130)
