"""`esft tune` and `esft resume`: fine-tune a model, or go on with a run that stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from esft.cli import options
from esft.cli.plan import costs_record, costs_text
from esft.cli.show import duration, show_work
from esft.rollout.typed import json_text

if TYPE_CHECKING:
    from esft.recipe.settings import Recipe
    from esft.tuning.minutes import Fitted
    from esft.tuning.sigma import Chosen
    from esft.tuning.start import Finished
    from esft.tuning.watcher import Outcome


@options.sigma_or_auto
@click.command(cls=options.GroupedCommand, short_help="Fine-tune a model on a task.")
@click.argument("recipe", required=False, shell_complete=options.complete_recipes)
@options.setting_options
@options.set_option
@options.grouped(
    "Run", "--dry-run", is_flag=True, help="Stop after plan and checks, before weights are read."
)
@options.grouped(
    "Run",
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Choose what was not typed (steps, population, rows, answers, sigma, alpha) so that the "
    "run ends in this time; a member is timed first.",
)
@options.json_option
@click.pass_context
def tune(
    ctx: click.Context,
    recipe: str | None,
    dry_run: bool,
    minutes: float | None,
    as_json: bool,
    **changes: object,
) -> None:
    """Fine-tune a model as RECIPE (a name or a .toml file) says; options replace its values.

    Leaves a run folder with the tuned model. Ctrl-C finishes the step in hand, saves the model
    and exits with 130; a second Ctrl-C stops at once. The processes of a torchrun share the
    members of each step.

    \b
    Examples:
      esft tune quickstart
      esft tune --model Qwen2.5-1.5B --task arc --awd 0.01
      esft tune arc-qwen2.5-1.5b --set search.sigma=0.002
      esft tune --model SmolLM2-135M-Instruct --task my.jsonl --grader number
      esft tune --model ./SmolLM2.gguf --task arc-easy --data-dir data \\
          --steps 5 --population 8 --run-dir out
      torchrun --nproc-per-node 2 -m esft tune arc-qwen2.5-1.5b
    """
    auto = ctx.params["sigma"] == "auto"
    chooses = ("--minutes",) * (minutes is not None) + ("--sigma",) * auto
    if auto:
        ctx.params["sigma"] = None  # as if it were not typed
    settings = options.recipe_of(ctx, recipe)
    # torch comes with them: --help does not wait for it
    from esft.recipe.settings import with_settings
    from esft.tuning.follow import follow
    from esft.tuning.ranks import joined, place
    from esft.tuning.start import run_tuning

    changes, known = {}, {}
    if chooses:
        chosen = _chosen(ctx, chooses, minutes, recipe, settings)
        changes, known = chosen.changes, {"opened": chosen.opened, "probed": chosen.probed}
        settings = with_settings(settings, changes)
    if dry_run:
        if not place().rank:
            _dry_run(recipe, settings, as_json)
        ctx.exit()
    with show_work() as watcher, joined() as ranks:
        if ranks is not None and ranks.follows:
            follow(ranks, settings)
            return
        result = run_tuning(settings, watcher, watcher.asked, ranks=ranks, **known)
    words = *options.as_options(changes), "--awd", "0"
    without = options.typed_with(ctx, ("--awd", "--run-dir", *chooses), *words)
    anchor = settings.anchor  # one that moves is refused where nothing pulls towards it
    can_be_without = anchor.awd and (anchor.kl or not anchor.moves)
    _show(ctx, result, as_json, without if can_be_without else None)


def _chosen(
    ctx: click.Context,
    chooses: tuple[str, ...],
    minutes: float | None,
    name: str | None,
    recipe: Recipe,
) -> Fitted | Chosen:
    """Return what the options that choose settings chose; say how it could be typed."""
    from esft.recipe.toml import settings_in
    from esft.tuning.minutes import fit_minutes
    from esft.tuning.sigma import choose_sigma

    _refuse_before_trial(chooses[0], recipe)
    typed, named = options.typed_settings(ctx)[0], {*settings_in(name)}
    with show_work() as watcher:
        if minutes is None:
            chosen = choose_sigma(recipe, typed, watcher, named)
            label, lines = "sigma", (chosen.because, "the same settings typed:")
        else:
            named -= {"search.sigma"} if "--sigma" in chooses else set()
            chosen = fit_minutes(recipe, minutes, typed, watcher, named)
            expected = f"expected {duration(chosen.seconds)} for all steps; the same typed:"
            label, lines = "minutes", (*chosen.because, expected)
        watcher.plan([(label, lines[0])])
        watcher.plan([("", line) for line in lines[1:]])
    words = options.as_options(chosen.changes)
    click.echo(f"  {options.typed_with(ctx, chooses, *words)}", err=True)
    return chosen


def _refuse_before_trial(option: str, recipe: Recipe) -> None:
    """Raise what a run would be refused for after its trial."""
    from esft.runs.names import choose_run_path
    from esft.tuning.ranks import place
    from esft.tuning.track import require_tracker

    choose_run_path(recipe.run.dir, recipe.task.name, recipe.model.id)
    require_tracker(recipe.run.track)

    if place().world > 1:
        raise click.UsageError(
            f"{option} tries members in one process, not those of a torchrun: run it without "
            "torchrun, and give torchrun the command that it prints"
        )


def _dry_run(name: str | None, recipe: Recipe, as_json: bool) -> None:
    from esft.tuning.costs import check_run

    with show_work() as watcher:
        costs = check_run(recipe, watcher)
    click.echo(json_text(costs_record(name, costs)) if as_json else costs_text(costs))


@click.command(cls=options.GroupedCommand, short_help="Go on with a run that stopped.")
@options.run_argument
@click.option("--steps", type=click.IntRange(min=1), help="Of all, for more than were planned.")
@options.json_option
@click.pass_context
def resume(ctx: click.Context, run: str | None, steps: int | None, as_json: bool) -> None:
    """Go on with RUN, a name under runs/ or a path; without one, with the newest.

    However it stopped, it ends with the same bits as if it never had. Also a finished run takes
    more steps, by --steps or search.steps in its recipe.toml. What would change the bits (base
    model, other settings, rows, noise) is refused: that is a new run.

    \b
    Examples:
      esft resume
      esft resume runs/arc-qwen2.5-1.5b-1 --steps 200
    """
    from esft.runs.names import find_run
    from esft.tuning.follow import follow
    from esft.tuning.ranks import joined
    from esft.tuning.start import resume_tuning

    with show_work() as watcher, joined() as ranks:
        if ranks is not None and ranks.follows:
            follow(ranks, None)
            return
        result = resume_tuning(find_run(run), watcher, watcher.asked, steps, ranks)
    _show(ctx, result, as_json)


def _show(
    ctx: click.Context, result: Outcome | Finished, as_json: bool, without_awd: str | None = None
) -> None:
    """Print what a run came to, and end with the code that says whether it was stopped."""
    from esft.cli.outcome import not_kept, show_outcome
    from esft.tuning.start import Finished

    if isinstance(result, Finished):
        text = f"run {result.run_path} is finished: {result.steps} steps"
        text += f", model {result.model_path or not_kept(result.run_path)}"
        record = {"run": result.run_path, "steps": result.steps, "state": "finished"}
        click.echo(json_text(record) if as_json else text)
        return
    show_outcome(result, as_json, without_awd)
    ctx.exit(130 if result.stopped else 0)
