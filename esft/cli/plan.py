"""`esft plan`: will a run fit, and how long will it take?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from esft.cli import options
from esft.cli.show import duration, show_work, wrapped
from esft.rollout.typed import json_text, to_json

if TYPE_CHECKING:
    from esft.tuning.calibrate import Times
    from esft.tuning.costs import Costs, Fit

_GB = click.FloatRange(0, 1e6, min_open=True)


@click.command(cls=options.GroupedCommand, short_help="Will it fit, and how long will it take?")
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...", shell_complete=options.complete_recipes)
@options.setting_options
@options.set_option
@options.grouped("Plan", "--vram", type=_GB, help="GB of a GPU to plan for, there or not.")
@options.grouped("Plan", "--calibrate", is_flag=True, help="Load the model and time a member.")
@options.grouped(
    "Plan",
    "--ranks",
    type=click.IntRange(min=1),
    default=1,
    help="Processes of a torchrun, each on a device like this one, to time a step of.",
)
@options.grouped("Plan", "--table", is_flag=True, help="What of known models fits on which card.")
@options.json_option
@click.pass_context
def plan(
    ctx: click.Context,
    recipes: tuple[str, ...],
    vram: float | None,
    calibrate: bool,
    ranks: int,
    table: bool,
    as_json: bool,
    **changes: object,
) -> None:
    """Say what runs of each RECIPE (a name or a .toml file) take of memory and disk, and whether
    this machine has it; options replace values of the recipes.

    No weights are loaded or downloaded, but for --calibrate. Without --task and RECIPE, prompts
    and answers of 256 tokens each are assumed.

    \b
    Examples:
      esft plan quickstart
      esft plan --model Qwen2.5-7B --vram 12
      esft plan quickstart --calibrate --ranks 4
      esft plan --table
    """
    if table:
        from esft.tuning.costs import fit_table

        fits = fit_table()
        click.echo(json_text(fits) if as_json else table_text(fits))
        return
    if ranks > 1 and not calibrate:
        raise click.UsageError("--ranks tells the time of a step, which is measured: --calibrate")
    records = []
    for name in recipes or (None,):
        costs, times = _planned(ctx, name, vram, ranks if calibrate else None)
        records.append(costs_record(name, costs, times))
        if not as_json:
            click.echo(costs_text(costs, times))
    if as_json:
        click.echo(json_text(records))


def _planned(
    ctx: click.Context, name: str | None, vram: float | None, ranks: int | None
) -> tuple[Costs, Times | None]:
    assumed = name is None and "task.name" not in options.typed_settings(ctx)[0]
    recipe = options.recipe_of(ctx, name, {"task.name": "conciseness"} if assumed else {})
    if ranks is not None and (assumed or vram is not None):
        raise click.UsageError(
            "--calibrate times rows of a task on this machine: name a --task, and no --vram"
        )
    from esft.tuning.costs import plan_run

    costs = plan_run(recipe, vram, assumed=assumed)
    if ranks is None:
        return costs, None
    from esft.tuning.calibrate import calibrate

    with show_work() as watcher:
        return costs, calibrate(recipe, watcher, ranks)


def costs_record(name: str | None, costs: Costs, times: Times | None = None) -> dict[str, object]:
    """Return what a run takes, for JSON, with its totals."""
    record = {"recipe": name, **to_json(costs), "times": to_json(times)}
    for part, memory in zip((record, *record["choices"]), (costs, *costs.choices), strict=True):
        taken = memory.memory
        part["memory"] |= {"on_device": taken.on_device, "on_host": taken.on_host}
    return record


def costs_text(costs: Costs, times: Times | None = None) -> str:
    """Return what a run takes, for people."""
    from esft.tuning.plan import in_bytes, memory_lines

    batch, disk = costs.batch, costs.disk
    tuned = "" if costs.tuned == costs.parameters else f", {costs.tuned:,} of them tuned"
    answer = f" and {batch.answer} to answer" if batch.answer else ""
    lengths = f"{batch.sequences} sequences of up to {batch.tokens} tokens{answer}"
    lines = [
        ("model", f"{costs.model}: {costs.parameters:,} parameters{tuned}, {costs.dtype}"),
        ("", f"on {costs.device}"),
        *([("", costs.slow)] if costs.slow else []),
        ("batch", f"{lengths}, {costs.rows}"),
        *memory_lines(costs.memory, costs.room),
        ("", _verdict(costs)),
        ("disk", f"{in_bytes(disk.run)} of {in_bytes(disk.free)} free for the run folder"),
    ]
    if disk.base:
        lines.append(("", f"{in_bytes(disk.base)} in esft's cache for the base weights"))
    if disk.download:
        lines.append(("", f"{in_bytes(disk.download)} of weights are not here: to be downloaded"))
    text = [wrapped(f"{label:<8}", said) for label, said in lines]
    text += [_choice_line(costs, one) for one in costs.choices]
    return "\n".join([*text, *_time_lines(times)])


def _verdict(costs: Costs) -> str:
    if costs.fits:
        return "fits"
    if costs.changes is None:
        return "does not fit, however it is kept: take a smaller model, or shorter answers"
    return f"does not fit; this would: {' '.join(costs.changes)}"


def _choice_line(costs: Costs, choice) -> str:
    memory = choice.memory
    host = f", host {memory.on_host / 1e9:.2f} GB" if memory.host else ""
    taken = (choice.store, choice.drift) == (costs.store, costs.drift)
    text = f"{memory.on_device / 1e9:7.2f} GB{host}  {'fits' if choice.fits else 'does not fit'}"
    return f"        {choice.store:<7}{choice.drift:<8}{text}{'  (taken)' if taken else ''}"


def _time_lines(times: Times | None) -> list[str]:
    if times is None:
        return []
    step = f"{duration(times.step)} a step: {duration(times.member)} a member"
    step += f" ({times.engine / times.member:.0%} engine), {duration(times.update)} the update"
    lines = [("time", step), ("", f"{duration(times.run)} for the run, with its evaluations")]
    if times.ranks > 1:
        most = f"{times.share} member{'s' * (times.share > 1)} at most"
        lines.append(("ranks", f"{times.ranks}, of {most}, and each with the memory above"))
    lines.append(("speed", f"{times.tokens_a_second:,.0f} tokens/s, read and written"))
    if times.joules is not None:
        lines.append(("energy", f"{times.joules / 3.6e6:.3g} kWh for the run"))
    return [wrapped(f"{label:<8}", said) for label, said in lines]


def table_text(fits: Sequence[Fit]) -> str:
    """Return the table of what fits as Markdown, a line a model."""
    cards = sorted({fit.card for fit in fits})
    lines = [f"| model | {' | '.join(f'{card} GB' for card in cards)} |", "|---" * 5 + "|"]
    for model in dict.fromkeys(fit.model for fit in fits):
        cells = {fit.card: fit for fit in fits if fit.model == model}
        lines.append(f"| {model} | {' | '.join(_cell(cells[card]) for card in cards)} |")
    return "\n".join(lines)


def _cell(fit: Fit) -> str:
    if fit.store is None:
        return "no"
    return f"{fit.batch}, all on the card" if fit.store == "device" else f"{fit.batch}"
