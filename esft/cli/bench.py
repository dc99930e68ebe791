"""`esft bench`: what this machine does in a second, against the plain ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from esft.cli.options import GroupedCommand, grouped, json_option
from esft.cli.show import duration, wrapped
from esft.rollout.typed import json_text

if TYPE_CHECKING:
    from esft.bench.engine import EngineBench
    from esft.bench.rollout import RolloutBench
    from esft.bench.step import StepBench
    from esft.bench.timing import Machine, Spread

_FOR = {"task": ("rollout",), "data_dir": ("rollout",)}
_FOR |= {"rows": ("rollout",), "batches": ("rollout",), "max_new_tokens": ("rollout",)}
"""The parts that an option is for, where it is not for all."""


@click.command(cls=GroupedCommand, short_help="Time engine, rollouts and a step on this machine.")
@click.argument("part", required=False, type=click.Choice(("engine", "rollout", "step")))
@grouped(
    "Model",
    "--model",
    help="What to time  [default: random weights of SmolLM2-135M's shapes "
    "in the engine, else the embedded model]",
)
@grouped("Model", "--dtype", help="float32, float16 or bfloat16.")
@grouped("Model", "--device", help="cuda, mps or cpu  [default: the first that there is]")
@grouped(
    "Members",
    "--population",
    "members",
    type=click.IntRange(min=2),
    help="Members per step, and of rollouts in one batch  [default: 30 in the engine, 64 in "
    "quickstart's step; none in rollouts]",
)
@grouped(
    "Rollout", "--task", help="Scored in its own way  [default: one without download, in both]"
)
@grouped("Rollout", "--data-dir", help="Folder of <task>.<split>.jsonl files.")
@grouped("Rollout", "--rows", type=click.IntRange(min=1), help="Rows  [default: 64]")
@grouped(
    "Rollout",
    "--batch",
    "batches",
    type=click.IntRange(min=1),
    multiple=True,
    help="Sequences at a time; may be repeated  [default: 8, 64]",
)
@grouped(
    "Rollout",
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="Cap on an answer  [default: 64]",
)
@grouped(
    "Other",
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    help="Rounds; both ways do all their work once in each.",
)
@json_option
def bench(part: str | None, as_json: bool, rounds: int, **given: object) -> None:
    """Time the engine, rollouts or a step, or all three: without options in about two minutes.

    The engine's passes run against the published way (noise drawn tensor by tensor, added and
    subtracted again), rollouts against plain transformers, in turns in this process. Figures are
    medians; in brackets the range over the rounds.

    \b
    Examples:
      esft bench
      esft bench rollout --model SmolLM2-135M-Instruct --dtype float32 --rows 32
      esft bench rollout --rows 16 --population 16
      esft bench step --model SmolLM2-135M-Instruct --population 4 --rounds 1
    """
    given = {name: value for name, value in given.items() if value not in (None, ())}
    for name in given:
        if part is not None and part not in _FOR.get(name, (part,)):
            flag = "--batch" if name == "batches" else "--" + name.replace("_", "-")
            whose = " and ".join(_FOR[name])
            raise click.UsageError(f"{flag} is for {whose} alone, expected options of {part}")
    results = {}
    for name in (part,) if part is not None else ("engine", "rollout", "step"):
        mine = {key: value for key, value in given.items() if name in _FOR.get(key, (name,))}
        measure, text = _PARTS[name]
        click.echo(f"timing: {name} ...", err=True)
        result = results[name] = measure(rounds=rounds, **mine)
        if not as_json:
            heading = [_machine_text(result.machine)] if len(results) == 1 else []
            click.echo("\n".join([*heading, "", *text(result)]))
    if as_json:
        click.echo(json_text(results))


def _engine(**settings: object) -> EngineBench:
    from esft.bench.engine import EngineSettings, bench_engine

    return bench_engine(EngineSettings(**settings))


def _rollout(**settings: object) -> RolloutBench:
    from esft.bench.rollout import RolloutSettings, bench_rollout

    return bench_rollout(RolloutSettings(**settings))


def _step(**settings: object) -> StepBench:
    from esft.bench.step import StepSettings, bench_step

    return bench_step(StepSettings(**settings))


def _engine_text(result: EngineBench) -> Iterator[str]:
    yield _about("engine", result, f"{result.elements:,} weights", f"N {result.members}")
    yield f"copying memory: {_figure(result.copy_gb_per_second, 'GB/s')}"
    widths = (-15, -10, 8, 7, 9, 26)
    yield _line(widths, "pass", "way", "M/s", "GB/s", "of copy", "published / this")
    for one in result.passes:
        yield _line(
            widths,
            one.operation,
            one.way,
            f"{one.elements_per_second / 1e6:,.0f}",
            "" if one.gb_per_second is None else f"{one.gb_per_second:.1f}",
            "" if one.copy_share is None else f"{one.copy_share:.0%}",
            "" if one.speedup is None else _figure(one.speedup),
        )
    yield "a step's engine time (perturb, revert, update), and how it undoes members"
    for step in result.steps:
        faster = "" if step.speedup is None else _figure(step.speedup)
        way = f"{step.way}, {step.revert}"
        yield _line((-26, -33, 16), f"  {way}", _figure(step.seconds, "s"), faster)
    (update,) = (p for p in result.passes if (p.operation, p.way) == ("update", result.kernels))
    replay = duration(500 * update.seconds.median)
    yield f"replay of 500 such steps: {replay}"
    yield f"an L1 decay adds to an update: {_figure(result.decay, 's')}"


def _rollout_text(result: RolloutBench) -> Iterator[str]:
    yield _about("rollout", result, f"{result.rows} rows of {result.task}")
    widths = (-9, 5, 9, 8, 13, 25, 9)
    yield _line(widths, "scoring", "batch", "tokens/s", "rows/s", "transformers", "ratio", "same")
    for rate in result.rates:
        yield _line(
            widths,
            rate.scoring,
            str(rate.batch),
            f"{rate.tokens_per_second.median:,.0f}",
            f"{rate.rows_per_second.median:,.1f}",
            f"{rate.plain_rows_per_second.median:,.1f}",
            _figure(rate.speedup),
            f"{rate.same}/{rate.sequences}",
        )
    if not result.shared:
        return
    members, rows = result.shared[0].members, result.shared[0].rows
    yield f"{members} members, {rows} rows each, in batches that they share (noise of rank 1)"
    widths = (-9, 5, 7, 25, 25, 9)
    yield _line(widths, "scoring", "batch", "rows/s", "of plain", "of one at a time", "same")
    for rate in result.shared:
        yield _line(
            widths,
            rate.scoring,
            str(rate.batch),
            f"{rate.rows_per_second.median:,.1f}",
            _figure(rate.of_plain),
            _figure(rate.speedup),
            f"{rate.same}/{members * rows}",
        )


def _step_text(result: StepBench) -> Iterator[str]:
    asked = f"{result.rows} rows of {result.task} by {result.scoring}"
    yield _about("step", result, asked, f"N {result.members}", f"batch {result.batch}")
    widths = (-17, -33, 7)
    yield _line(widths, "a step", _figure(result.seconds, "s"), "")
    for name, seconds in result.parts.items():
        yield _line(widths, f"  {name}", _figure(seconds, "s"), f"{result.shares[name]:.1%}")
    share = f"{result.inference_share:.1%}"
    yield _line(widths, "plain inference", _figure(result.inference, "s"), share)


def _machine_text(machine: Machine) -> str:
    threads = f"{machine.cores} cores, {machine.threads} thread{'s' * (machine.threads > 1)}"
    parts = [machine.processor, threads, *machine.gpus, f"torch {machine.versions['torch']}"]
    return wrapped("", ", ".join([*parts, machine.date]))


def _about(part: str, result: EngineBench | RolloutBench | StepBench, *facts: str) -> str:
    words = (result.model, result.dtype, result.device, *facts, f"rounds: {result.rounds}")
    return wrapped("", f"{part}: {', '.join(words)}")


def _figure(spread: Spread, unit: str = "x") -> str:
    values = (spread.median, spread.low, spread.high)
    middle, low, high = (f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}" for value in values)
    return f"{middle} {unit}" if low == high else f"{middle} {unit} ({low} to {high})"


def _line(widths: Sequence[int], *cells: str) -> str:
    """Return a line of a table; cells of a negative width stand at its left end."""
    pairs = zip(cells, widths, strict=True)
    return "".join(f"{cell:{'<' if w < 0 else '>'}{abs(w)}}" for cell, w in pairs).rstrip()


_PARTS = {"engine": (_engine, _engine_text), "rollout": (_rollout, _rollout_text)}
_PARTS |= {"step": (_step, _step_text)}
