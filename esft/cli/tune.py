"""`esft tune` and `esft resume`: fine-tune a model, or go on with a run that stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from esft.cli import options
from esft.cli.plan import costs_record, costs_text
from esft.cli.show import change_text, duration, show_run
from esft.rollout.typed import json_text

if TYPE_CHECKING:
    from esft.recipe.settings import Recipe
    from esft.tuning.watcher import Outcome


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
    settings = options.recipe_of(ctx, recipe)
    from esft.tuning.start import run_tuning  # torch comes with it: --help does not wait for it

    if minutes is not None:
        settings = _within(ctx, minutes, recipe, settings)
    if dry_run:
        _dry_run(recipe, settings, as_json)
        ctx.exit()
    with show_run() as watcher:
        outcome = run_tuning(settings, watcher, watcher.asked)
    click.echo(json_text(_record(outcome)) if as_json else _text(outcome))
    if settings.anchor.awd and outcome.priors and not as_json:
        same = options.typed_with(ctx, ("--awd", "--run-dir"), "--awd", "0")
        click.echo(f"The same without AWD: {same}")
    ctx.exit(130 if outcome.stopped else 0)


def _within(ctx: click.Context, minutes: float, name: str | None, recipe: Recipe) -> Recipe:
    """Return a recipe that takes so many minutes, and say how it could have been typed."""
    from esft.recipe.settings import with_settings
    from esft.recipe.toml import settings_in
    from esft.tuning.minutes import fit_minutes

    typed = options.typed_settings(ctx)[0]
    with show_run() as watcher:
        fitted = fit_minutes(recipe, minutes, typed, watcher, settings_in(name))
        expected = f"expected {duration(fitted.seconds)} for all steps; the same settings typed:"
        watcher.plan([("minutes", fitted.because[0])])
        watcher.plan([("", line) for line in (*fitted.because[1:], expected)])
    words = options.as_options(fitted.changes)
    click.echo(f"  {options.typed_with(ctx, ('--minutes',), *words)}", err=True)
    return with_settings(recipe, fitted.changes)


def _dry_run(name: str | None, recipe: Recipe, as_json: bool) -> None:
    from esft.tuning.costs import check_run

    with show_run() as watcher:
        costs = check_run(recipe, watcher)
    click.echo(json_text(costs_record(name, costs)) if as_json else costs_text(costs))


@click.command(cls=options.GroupedCommand, short_help="Go on with a run that stopped.")
@options.run_argument
@options.json_option
@click.pass_context
def resume(ctx: click.Context, run: str | None, as_json: bool) -> None:
    """Go on with RUN, a name under runs/ or a path; without one, with the newest.

    However it stopped, it ends with the same bits as if it never had. For more steps raise
    search.steps in its recipe.toml, also once it is finished. What would change the bits (base
    model, other settings, rows, noise) is refused: that is a new run.

    \b
    Examples:
      esft resume
      esft resume runs/arc-qwen2.5-1.5b-1
    """
    from esft.runs.names import find_run
    from esft.tuning.start import Finished, resume_tuning

    path = find_run(run)
    with show_run() as watcher:
        result = resume_tuning(path, watcher, watcher.asked)
    if isinstance(result, Finished):
        text = f"run {result.run_path} is finished: {result.steps} steps"
        text += f", model {result.model_path or _not_kept(result.run_path)}"
        record = {"run": result.run_path, "steps": result.steps, "state": "finished"}
        click.echo(json_text(record) if as_json else text)
        return
    click.echo(json_text(_record(result)) if as_json else _text(result))
    ctx.exit(130 if result.stopped else 0)


def _not_kept(run: str) -> str:
    return f"not kept; esft export {run} --out DIR makes it"


def _text(outcome: Outcome) -> str:
    from esft.rollout.results import paired_change

    lines = [f"{outcome.task}, {outcome.base.n} holdout rows, +- standard error"]
    for label, figure in (("reward", "reward"), ("correct", "accuracy")):
        before, after = (
            f"{getattr(evaluation, figure):.4f} +- {getattr(evaluation, f'{figure}_se'):.4f}"
            for evaluation in (outcome.base, outcome.tuned)
        )
        change, error = paired_change(outcome.base, outcome.tuned, label)
        lines.append(f"  {label:<8} {before} -> {after}   change {change:+.4f} +- {error:.4f}")
    if outcome.priors:
        counts = sorted({task.base.n for task in outcome.priors})
        rows = f"{counts[0]} to {counts[-1]} rows" if len(counts) > 1 else f"{counts[0]} rows each"
        lines.append(f"prior tasks, {rows}, share right")
        width = max(len(task.name) for task in outcome.priors)
        lines += [f"  {task.name:<{width}}  {change_text(task)}" for task in outcome.priors]
    if outcome.grader_failures:
        failures = f"no score for {outcome.grader_failures:,} answers, which counted as 0"
        lines.append(f"grader     {failures}")
    if outcome.best_step not in (None, outcome.steps):
        best = "the base model" if outcome.best_step == 0 else f"step {outcome.best_step}"
        command = f"esft export {outcome.run_path} --at best --out DIR"
        lines.append(f"best       {best} has the best holdout reward: {command}")
    state = f"{'stopped after' if outcome.stopped else 'done:'} {outcome.steps} steps"
    memory = f"peak memory {outcome.peak_memory / 1e9:.2f} GB"
    lines += [
        f"drift      ||D|| {outcome.drift:.4g}, forecast {outcome.forecast:.4g}",
        f"run        {state}, {duration(outcome.seconds)}, {memory}",
        *([] if outcome.times is None else [f"time       {outcome.times} of the steps"]),
        f"model      {outcome.model_path or _not_kept(outcome.run_path)}",
        *([f"go on      esft resume {outcome.run_path}"] if outcome.stopped else []),
    ]
    return "\n".join(lines)


def _record(outcome: Outcome) -> dict[str, object]:
    plain = ("task", "steps", "planned", "stopped", "best_step", "grader_failures", "drift")
    plain += ("forecast", "peak_memory", "times")
    return {name: getattr(outcome, name) for name in plain} | {
        "run": outcome.run_path,
        "model": outcome.model_path,
        "base": outcome.base.figures(),
        "tuned": outcome.tuned.figures(),
        "priors": {
            task.name: {"base": task.base.figures(), "tuned": task.now.figures()}
            for task in outcome.priors
        },
        "seconds": round(outcome.seconds, 3),
    }
