"""`esft probe`: which sigma, alpha and population, and is there a signal at all?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from esft.cli import options
from esft.cli.show import columns, duration, show_work, wrapped
from esft.rollout.typed import json_text, to_json

if TYPE_CHECKING:
    from esft.tuning.probe import Probed, ProbedSigma

_WIDTHS = 8, 22, 20, 11, 11, 8
_OWN = ("--sigmas", "--members", "--rows", "--out", "--plot")
_CHOSEN = ("--sigma", "--alpha", "--population")


def _numbers(ctx: click.Context, parameter: click.Parameter, text: str | None) -> list[float]:
    try:
        return None if text is None else [float(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not a list of numbers, such as 0.001,0.003,0.01"
        ) from error


@click.command(cls=options.GroupedCommand, short_help="Which sigma, alpha, population? A signal?")
@click.argument("recipe", required=False, shell_complete=options.complete_recipes)
@options.grouped(
    "Probe",
    "--sigmas",
    callback=_numbers,
    metavar="LIST",
    help="Noise scales to try, increasing, with commas between them  [default: four, 3 times "
    "apart, by the size of the weights]",
)
@options.grouped("Probe", "--members", type=int, default=30, help="Members of each sigma.")
@options.grouped(
    "Probe",
    "--rows",
    type=int,
    help="Rows that each member sees; the best see as many fresh ones too  [default: those of a "
    "step, 128 at most, else 32; half of the train rows at most]",
)
@options.grouped(
    "Probe",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Write the recommendation as a recipe, for esft tune FILE.toml.",
)
@options.grouped(
    "Probe",
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Draw the rewards of the members at each sigma.",
)
@options.setting_options
@options.set_option
@options.json_option
@click.pass_context
def probe(
    ctx: click.Context,
    recipe: str | None,
    sigmas: list[float] | None,
    members: int,
    rows: int | None,
    out: Path | None,
    plot: Path | None,
    as_json: bool,
    **changes: object,
) -> None:
    """Try members at some sigmas before you tune, as RECIPE and the options say, and recommend
    sigma, alpha and population. No step is made, and no run folder.

    The same members and rows at each sigma: how the reward changes, how many members improve, and
    how much of their ranking is signal, how much chance. Ctrl-C keeps the sigmas that are done.

    \b
    Examples:
      esft probe quickstart
      esft probe --model ./SmolLM2.gguf --task conciseness --out my.toml --plot my.png
      esft probe arc-qwen2.5-1.5b --sigmas 3e-4,1e-3,3e-3,1e-2 --members 40 --rows 64
    """
    settings = options.recipe_of(ctx, recipe)
    from esft.recipe.settings import with_settings
    from esft.recipe.toml import refuse_taken, write_recipe
    from esft.tuning.probe import run_probe

    for file in (out, plot):
        if file is not None:
            refuse_taken(file)
    with show_work() as watcher:
        result = run_probe(settings, watcher, sigmas=sigmas, members=members, rows=rows)
    advised, command = result.recommendation, _command(ctx, result)
    if as_json:
        record = to_json(result) | {"stopped": result.stopped}
        record["recommendation"] |= {"command": command}
        click.echo(json_text(record))
    else:
        _print(result, command)
    if out is not None and advised.sigma is not None:
        write_recipe(with_settings(settings, advised.changes), out, "Recommended by esft probe.")
        click.echo(f"written to {out}: esft tune {out}", err=True)
    elif out is not None:
        click.echo(f"{out} is not written: there is nothing to recommend", err=True)
    if plot is not None:
        _draw(result, plot)
    ctx.exit(130 if result.stopped else 0)


def _draw(result: Probed, plot: Path) -> None:
    from esft.files import write_whole
    from esft.report.charts import PROBE_KEYS, probe_chart
    from esft.report.draw import as_png

    title = f"{result.task} on {Path(result.model).name}"
    chosen = result.recommendation.sigma
    chart = probe_chart(title, result.base_reward, result.sigmas, chosen)
    write_whole(plot, as_png([chart], PROBE_KEYS))
    click.echo(f"drawn in {plot}", err=True)


def _command(ctx: click.Context, result: Probed) -> str | None:
    """Return the line to paste: a run as recommended, or a probe of another reward; None where
    neither is known."""
    advised = result.recommendation
    changes = {key: value for key, value in advised.changes.items() if key.startswith("search.")}
    if changes:
        words = options.as_options(changes)
        return options.typed_with(ctx, (*_OWN, *_CHOSEN), *words, command="tune")
    if advised.reward is None:
        return None
    words = ("--set", f"task.reward={advised.reward}")
    return options.typed_with(ctx, (), *words)


def _print(result: Probed, command: str | None) -> None:
    right = "" if result.base_correct is None else f", {result.base_correct:.0%} right"
    click.echo(f"{result.task} on {result.model}, base reward {result.base_reward:.3f}{right}")
    click.echo(f"{result.members} members a sigma, {result.rows} rows each, seed {result.seed}\n")
    most = max(result.sigmas[0].signal.best, default=result.members)
    headings = ("sigma", "change", "improve", "best of 5", f"of {most}", "signal")
    click.echo(columns(headings, _WIDTHS))
    for one in result.sigmas:
        click.echo(columns(_cells(one, most), _WIDTHS))
    click.echo("")
    for one in result.sigmas:
        click.echo(wrapped(f"{one.sigma:<8.3g} ", f"{one.verdict}: {one.why}"))
        click.echo(wrapped(" " * 9, _more(one)))
    if result.stopped:
        done = f"{len(result.sigmas)} of {len(result.asked)} sigmas"
        click.echo(f"\nStopped: {done} were measured.")
    advised = result.recommendation
    click.echo("")
    if advised.sigma is None:
        click.echo(wrapped(f"{advised.verdict} at any sigma: ", advised.why))
    else:
        settings = f"sigma {advised.sigma:g}, alpha {advised.alpha:g}, N {advised.population}"
        click.echo(wrapped("recommended: ", f"{settings}: {advised.why}"))
    if command is not None:
        click.echo(f"  {command}")


def _cells(one: ProbedSigma, most: int) -> list[str]:
    signal, interval = one.signal, one.signal.improving_interval
    best = [f"{signal.best[size]:+.3g}" if size in signal.best else "-" for size in (5, most)]
    return [
        f"{one.sigma:.3g}",
        f"{signal.change:+.3g} +- {signal.change_se:.2g}",
        f"{signal.improving:.0%} ({interval.low:.0%} to {interval.high:.0%})",
        *best,
        f"{max(0.0, signal.reliability):.0%}",
    ]


def _more(one: ProbedSigma) -> str:
    """Return what stands below the verdict."""
    parts = [f"{one.signal.telling:.0%} of rows tell members apart"]
    if (one.signal.nearly or 1) > 1:
        parts.append(f"{one.signal.nearly} members have 90% of that best")
    if one.members_again:
        flattered = f", so these flatter by {one.bias:.2g}" if one.bias > 0 else ""
        parts.append(
            f"the best {one.members_again} change it by {one.chosen_change:+.3g} on these rows and "
            f"{one.fresh_change:+.3g} on fresh ones{flattered}"
        )
    if one.unmoved is not None:
        parts.append(f"{one.unmoved:.0%} of weights do not move")
    parts.append(f"{duration(one.member_s)} a member")
    return "; ".join(parts)
