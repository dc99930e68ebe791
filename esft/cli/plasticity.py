"""`esft plasticity`: can a tuned model still learn another task as its base could?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from esft.cli import options
from esft.cli.show import columns, show_work, wrapped
from esft.rollout.typed import json_text

if TYPE_CHECKING:
    from esft.evals.plasticity import PlasticityRecord
    from esft.evals.proxy import ProxyRecord
    from esft.stats.plasticity import CurvePair, Estimate

_WIDTHS = 12, 9, 9, 28
_TRAINED = ("steps", "by", "margin")  # options that --proxy has no use for
_UNTYPED = click.core.ParameterSource.DEFAULT
_learn, _distance = (partial(options.grouped, group) for group in ("Learning", "Distance"))


@click.command(cls=options.GroupedCommand, short_help="Can it still learn another task?")
@click.argument("runs", nargs=-1, metavar="[RUN ...]", shell_complete=options.complete_runs)
@_learn(
    "--task",
    required=True,
    shell_complete=options.complete_tasks,
    help="What is to be learned: another task than the one that RUN was tuned on.",
)
@_learn("--steps", type=click.IntRange(min=1), help="Of each run  [default: those of RUN]")
@_learn(
    "--seeds",
    type=click.IntRange(min=1),
    default=3,
    help="Seeds, each a run from the base and one from RUN's model.",
)
@_learn(
    "--seed",
    type=click.IntRange(0, 2**62),
    default=1001,
    help="The first of them; best not one that RUN was tuned with.",
)
@_learn(
    "--rows",
    type=click.IntRange(min=1),
    help="Holdout rows; with --proxy, rows that each member sees  [default: those of RUN]",
)
@_learn(
    "--set",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Replace a setting of the runs, such as search.alpha; may be repeated.",
)
@_learn(
    "--by",
    type=click.Choice(("right", "reward")),
    default="right",
    help="What the verdict is on: the share right, or the reward.",
)
@_learn(
    "--margin",
    type=click.FloatRange(0, min_open=True),
    default=0.03,
    help="A loss of gain that matters to no one is smaller than this.",
)
@_learn(
    "--proxy",
    is_flag=True,
    help="Make no step: compare what 30 members are worth at both models, which is a proxy.",
)
@_distance(
    "--kl-prompts",
    type=click.IntRange(min=0),
    default=50,
    help="Prompts of the task that base and tuned model go on from; 0 leaves the KL out.",
)
@_distance("--kl-tokens", type=click.IntRange(min=1), default=256, help="New tokens, at most.")
@_distance(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Draw drift and KL of the runs against their plasticity.",
)
@options.json_option
@click.pass_context
def plasticity(
    ctx: click.Context,
    runs: tuple[str, ...],
    set: tuple[str, ...],
    proxy: bool,
    plot: Path | None,
    as_json: bool,
    **asked: object,
) -> None:
    """Tune RUN's model and its base model on another task alike, and compare what they learn.

    The recipe of RUN, the same seeds and members, no prior tasks; each run is anchored at the model
    that it starts from. They lie in plasticity/ of RUN: the same command again goes on, or takes
    what is there. Several runs come into one plot. Without RUN, the newest run.

    \b
    Examples:
      esft plasticity --task add-two-digits
      esft plasticity --task add-two-digits --proxy
      esft plasticity with-awd without-awd --task add-two-digits \\
          --set search.alpha=0.028 --set anchor.awd=0 --plot plasticity.png
    """
    from esft.evals.learners import PlasticityRequest
    from esft.evals.plasticity import run_plasticity
    from esft.evals.proxy import run_proxy
    from esft.recipe.toml import parse_change, refuse_taken
    from esft.runs.names import find_run

    typed = [name for name in _TRAINED if ctx.get_parameter_source(name) != _UNTYPED]
    if proxy and typed:
        raise click.UsageError(f"--{typed[0]} is of learning curves, and --proxy makes none")
    if plot is not None:
        refuse_taken(plot)
    paths = [*{path.resolve(): path for path in map(find_run, runs or (None,))}.values()]
    request = PlasticityRequest(changes=dict(map(parse_change, set)), **asked)
    try:
        with show_work() as watcher:
            if proxy:
                records = run_proxy(paths, request, watcher)
            else:
                records = run_plasticity(paths, request, watcher, watcher.asked)
    except KeyboardInterrupt:
        if not proxy:
            click.echo("What was learned is kept: the same command goes on from there.", err=True)
        raise
    if as_json:
        click.echo(json_text(records))
    elif proxy:
        _print_proxy(records)
    else:
        _print(records)
    if plot is not None:
        _draw(records, plot)


def _draw(records: list[PlasticityRecord] | list[ProxyRecord], plot: Path) -> None:
    from esft.files import write_whole
    from esft.report.plasticity import plasticity_png

    write_whole(plot, plasticity_png(records))
    click.echo(f"drawn in {plot}", err=True)


def _print(records: list[PlasticityRecord]) -> None:
    for record in records:
        steps, rows = record.right.steps[-1], record.right.rows
        _head(record, f"{steps} steps, {rows} holdout rows")
        click.echo(_curves("right", record.right))
        if record.rewards is not None:
            click.echo(_curves("reward", record.rewards))
        click.echo(wrapped(f"{record.verdict.kind}: ", record.verdict.text))
        click.echo(f"written to {Path(record.run) / 'plasticity.json'}\n")
    gains = [(record.judged.gain, f"  {record.verdict.kind}") for record in records]
    _together(records, "gain", gains)


def _print_proxy(records: list[ProxyRecord]) -> None:
    for record in records:
        members, rows = record.seeds[0].members, record.rows
        _head(record, f"a proxy, no step: {members} members, sigma {record.sigma:g}, {rows} rows")
        widths = *_WIDTHS[:3], 31
        click.echo(columns(("members", "base", "tuned", "tuned - base, 95 %"), widths))
        names = {"improving": "improve", "change": "change", "best": f"best of {members}"}
        for name, label in names.items():
            two = [getattr(pair, name) for pair in record.seeds]
            means = (f"{sum(of_one) / len(two):.4f}" for of_one in zip(*two, strict=True))
            apart = getattr(record, name)
            click.echo(columns((label, *means, "" if apart is None else _text(apart, 4)), widths))
        click.echo(f"written to {Path(record.run) / 'plasticity-proxy.json'}\n")
    _together(records, "improve", [(record.improving, "") for record in records])


def _head(record: PlasticityRecord | ProxyRecord, how: str) -> None:
    """Print what learns what, and how far it is from its base."""
    first, last = record.seeds[0].seed, record.seeds[-1].seed
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    text = f"{Path(record.run).name}, step {record.distance.step} (tuned on {record.tuned_on}), "
    text += f"learns {record.task}: {how}, {seeds}"
    if first == last:
        text += "; other seeds may come to something else, by more than the intervals say"
    click.echo(wrapped("", text))
    text = f"from the base: ||D|| {record.distance.drift:.4g}"
    if record.distance.kl is not None:
        there = record.distance.kl.base_to_tuned
        text += f", KL(p0||p) {there.kl:.3g} +- {there.se:.1g} a token on {there.prompts} prompts"
    click.echo(wrapped("", text))


def _together(
    records: list[PlasticityRecord] | list[ProxyRecord],
    label: str,
    found: list[tuple[Estimate, str]],
) -> None:
    """Print a line a run, where there are several."""
    if len(records) == 1:
        return
    widths = 9, 11, 28
    click.echo(columns(("||D||", "KL(p0||p)", f"{label}, tuned - base"), widths))
    for record, (estimate, kind) in zip(records, found, strict=True):
        far = record.distance
        kl = "" if far.kl is None else f"{far.kl.base_to_tuned.kl:.3g}"
        cells = columns((f"{far.drift:.4g}", kl, _text(estimate)), widths)
        click.echo(f"{cells}  {Path(record.run).name}{kind}")


def _curves(label: str, pair: CurvePair) -> str:
    """Return the table of two curves."""
    lines = [columns((label, "base", "tuned", "tuned - base, 95 %"), _WIDTHS)]
    for step, *two, apart in zip(pair.steps, pair.base, pair.tuned, pair.differences, strict=True):
        cells = (f"step {step}", *(f"{value:.3f}" for value in two), _text(apart))
        lines.append(columns(cells, _WIDTHS))
    gains = (f"{one.mean:+.3f}" for one in (pair.base_gain, pair.tuned_gain))
    lines.append(columns(("gain", *gains, _text(pair.gain)), _WIDTHS))
    lines.append(columns(("mean gain", "", "", _text(pair.mean_gain)), _WIDTHS))
    return "\n".join(lines)


def _text(estimate: Estimate, digits: int = 3) -> str:
    numbers = estimate.mean, estimate.interval.low, estimate.interval.high
    return "{} ({} to {})".format(*(f"{number:+.{digits}f}" for number in numbers))
