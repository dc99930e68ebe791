"""`esft eval`: what tuning did to everything else."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from esft.cli.options import (
    GroupedCommand,
    device_option,
    grouped,
    json_option,
    prior_option,
    run_argument,
    typed_with,
)
from esft.cli.show import show_work, wrapped
from esft.rollout.typed import json_text

if TYPE_CHECKING:
    from esft.evals.measured import MeasuredTask
    from esft.evals.results import (
        Comparison,
        EvalRecord,
        KlEstimate,
        KlPair,
        StepDrift,
        TaskResult,
    )
    from esft.evals.run import EvalResult
    from esft.runs.records import StepScore
    from esft.stats.passes import PassRate


_prior, _model, _passes, _distance = (
    partial(grouped, group) for group in ("Prior tasks", "Model", "Sampled answers", "Distance")
)


@click.command("eval", cls=GroupedCommand, short_help="Measure prior tasks: lost, or drifting?")
@run_argument
@prior_option
@_prior(
    "--rows",
    type=click.IntRange(min=1),
    help="Rows of a task that names no number  [default: the run's, else 200]",
)
@_prior("--data-dir", help="Folder of <task>.<split>.jsonl files.")
@_prior(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.03,
    help="A change that matters to no one is smaller than this share.",
)
@_prior(
    "--texts",
    type=click.IntRange(min=0),
    default=0,
    help="Rows gained and lost to print per task, with both answers.",
)
@_model(
    "--at",
    help="Steps, as in 0,25,50,last; best is that of the best holdout reward  [default: all at "
    "which the run measured a task itself, else the last]",
)
@_model(
    "--model",
    "models",
    multiple=True,
    help="A model to measure by itself; with RUN, its base model; with --base, each of those to "
    "compare with it.",
)
@_model("--base", help="The model that those of --model are compared with, without a run.")
@_model("--dtype", help="float32, float16 or bfloat16, of models without a run.")
@_model(
    "--load",
    type=click.Choice(("nf4", "int8")),
    help="Measure the models as loaded in 4 or 8 bits, scores alone: does the gain survive?",
)
@device_option
@_passes(
    "--samples",
    type=click.IntRange(min=1),
    help="Answers to draw to each row of tasks that are scored by generation: pass@k for k = 1, 2, "
    "4, ... up to so many, how often one of k is right  [default: none]",
)
@_passes("--temperature", type=float, help="At which they are drawn, above 0  [default: 1.0]")
@_distance(
    "--kl-prompts",
    type=click.IntRange(min=0),
    default=50,
    help="Prompts of each prior task that both models go on from; 0 leaves the KL out.",
)
@_distance("--kl-tokens", type=click.IntRange(min=1), default=256, help="New tokens, at most.")
@_distance(
    "--layers",
    is_flag=True,
    help="Where the change of the last step sits: ||D|| layer by layer, and how much of it stays "
    "with the largest 50, 20, 10 and 5 % of D alone (five more evaluations of each task).",
)
@_distance(
    "--noise-floor/--no-noise-floor",
    default=True,
    help="In half precision, score the base again with another batch size.",
)
@json_option
@click.pass_context
def evaluate(
    ctx: click.Context, prior: tuple[str, ...] | None, texts: int, as_json: bool, **asked: object
) -> None:
    """Measure prior tasks, and the target, on steps of RUN against its base model.

    RUN is a name under runs/, a path, or a journal; without one, the newest run. With --model and
    no RUN, the model is measured by itself; with --base, against that one, as any two checkpoints.
    What was measured before is not measured again. Exit code 1 where a task could not be measured.

    \b
    Examples:
      esft eval --prior tasks.txt
      esft eval runs/arc-qwen2.5-1.5b-1 --prior tasks.txt --at 25,50,100,last
      esft eval --model Qwen2.5-1.5B --prior gsm8k:100
      esft eval --base Qwen2.5-1.5B --model my-merged-lora --prior tasks.txt
    """
    from esft.evals.follow import follow_eval
    from esft.evals.run import EvalRequest, run_eval, write_eval
    from esft.tuning.ranks import joined

    try:
        with show_work() as watcher, joined() as ranks:
            if ranks is not None and ranks.follows:
                follow_eval(ranks)
                return
            result = run_eval(EvalRequest(priors=prior or (), **asked), watcher, ranks)
    except KeyboardInterrupt:
        click.echo("What was measured is kept: the same command goes on from there.", err=True)
        raise
    if as_json:
        click.echo(json_text(result.record))
    else:
        _print(result, texts)
    if more := _more_steps(result.record):
        again = typed_with(ctx, ("--at",), "--at", ",".join(map(str, more)))
        click.echo(f"Hint: steps in between, from the journal: {again}", err=True)
    for failed in result.record.failed:
        click.echo(f"Error: {failed.task} was not measured: {failed.error}", err=True)
        if failed.hint is not None:
            click.echo(f"Hint: {failed.hint}", err=True)
    if result.path is not None:  # after the figures: a full disk must not cost them
        write_eval(result)
        if not as_json:
            click.echo(f"written to {result.path}")
    ctx.exit(1 if result.record.failed else 0)


def _print(result: EvalResult, texts: int) -> None:
    record = result.record
    _print_head(record)
    for measured, task in zip(result.measured, record.tasks, strict=True):
        _print_task(task)
        if texts and len(measured.evaluations) > 1:
            _print_texts(measured, texts)
    _print_all(record)


def _print_head(record: EvalRecord) -> None:
    """Print what is compared with what."""
    from esft.runs.differences import short_name

    if record.run is not None:
        against = f"against its base model {short_name(record.model)}"
        click.echo(wrapped("", f"{_called(Path(record.run))} {against}"))
    if record.models:
        click.echo(wrapped("step 0: ", record.model))
    for model in record.models:
        click.echo(wrapped(f"step {model.step}: ", model.id))
        for note in model.notes:
            click.echo(wrapped("  ", note))


def _print_task(task: TaskResult) -> None:
    """Print a task at each step, and what came of it."""
    from esft.cli.layers import largest_lines

    click.echo(f"{task.name} ({task.role}, {task.evaluations[0].n} rows by {task.scoring})")
    changes = {change.step: change for change in task.comparisons}
    divergences = {pair.step: pair for pair in task.kl}
    passes = {one.step: one for one in task.passes}
    rewarded = any(change.reward_change is not None for change in task.comparisons)
    for score in task.evaluations:
        step = score.step
        click.echo(_step_line(score, changes.get(step), divergences.get(step), rewarded))
        for rate in passes[step].rates if step in passes else ():
            click.echo(_pass_line(rate))
    if task.verdict is not None:
        click.echo(wrapped(f"  {task.verdict.kind}: ", task.verdict.text))
    for line in (*_knowing(task), *largest_lines(task)):
        click.echo(line)


def _print_all(record: EvalRecord) -> None:
    """Print what all tasks came to, and how far the weights are."""
    from esft.cli.layers import layer_lines
    from esft.evals.chains import forgetting_lines

    judged = [task for task in record.tasks if task.verdict is not None]
    if record.samples is not None:
        click.echo(wrapped("", _samples_line(record)))
    if len(judged) > 1:
        click.echo(f"step {judged[0].change.step} against the base")
        width = max(len(task.name) for task in judged)
        for task in judged:
            click.echo(f"  {task.name:{width}}  {_change(task.change)}  {task.verdict.kind}")
    for line in () if record.forgetting is None else forgetting_lines(record.forgetting):
        click.echo(wrapped("", line))
    for drift in record.drift:
        click.echo(wrapped("", _drift_line(drift)))
        for line in layer_lines(drift):
            click.echo(line)
    if record.noise_floor is not None:
        click.echo(wrapped("noise floor: ", record.noise_floor.text))


def _knowing(task: TaskResult) -> list[str]:
    """Return the measures of task know at the last step, or of the base alone."""
    from esft.cli.knowing import knowing_lines

    change, now = task.change, task.after or task.before
    before, changes = (None, None) if change is None else (task.before.knowing, change.knowing)
    return knowing_lines(f"step {now.step}", before, now.knowing, changes)


def _pass_line(rate: PassRate) -> str:
    error = "" if rate.se is None or math.isnan(rate.se) else f" +- {rate.se:.3f}"
    line = f"{' ' * 13}pass@{rate.k:<4} {rate.rate:.3f}{error}"
    if rate.interval is not None:
        line += f"  {rate.change:+.3f} ({rate.interval.low:+.3f} to {rate.interval.high:+.3f})"
    return line


def _samples_line(record: EvalRecord) -> str:
    answers = "an answer" if record.samples == 1 else f"{record.samples} answers"
    line = f"pass@k: {answers} drawn to each row at temperature {record.temperature:g}"
    if without := [task.name for task in record.tasks if not task.passes]:
        line += f"; none to {', '.join(without)}, not scored by generation"
    return line


def _drift_line(drift: StepDrift) -> str:
    if drift.forecast is not None:
        return (
            f"step {drift.step}: ||D|| {drift.norm:.4g}, forecast {drift.forecast:.4g}; "
            f"D = 0 in {drift.zero_share:.1%}, weights unmoved {drift.unmoved_share:.1%}"
        )
    if math.isnan(drift.norm):
        return f"step {drift.step}: no distance of the weights: none are in both models"
    line = f"step {drift.step}: ||D|| {drift.norm:.4g}; weights unmoved {drift.unmoved_share:.1%}"
    if left := len(drift.unmatched):
        few = ", ".join(drift.unmatched[:2]) + (", ..." if left > 2 else "")
        parameters = "a parameter" if left == 1 else f"{left} parameters"
        line += f"; without {parameters} not in both in one shape: {few}"
    return line


def _called(run: Path) -> str:
    """Return a run's name, with what sets it apart from the others of its task and model."""
    from esft.runs.listing import listed_runs

    same = (one for one in listed_runs() if Path(one.path).resolve() == run.resolve())
    differs = next((one.differs for one in same), "")
    return f"{run.name} ({differs})" if differs else run.name


def _more_steps(record: EvalRecord) -> list[int]:
    """Return which steps of a run would tell a verdict that more evaluations would; or none."""
    verdicts = (task.verdict for task in record.tasks if task.verdict is not None)
    if record.run is None or all(verdict.evaluations_needed is None for verdict in verdicts):
        return []
    measured, last = {*record.steps} - {0}, record.steps[-1]
    between = measured | {math.ceil(last * part / 8) for part in range(1, 9)}
    return [] if between == measured else sorted(between)


def _step_line(
    score: StepScore, change: Comparison | None, divergence: KlPair | None, rewarded: bool
) -> str:
    error = "" if score.se is None else f" +- {score.se:.3f}"
    line, below = f"  step {score.step:<5} {score.accuracy:.3f}{error}", "\n" + " " * 13
    if change is not None:
        line += f"  {_change(change)}  +{change.gained} -{change.lost} rows, p {change.p:.1g}"
    if rewarded:
        error = "" if score.reward_se is None else f" +- {score.reward_se:.3f}"
        reward = "not finite" if score.reward is None else f"{score.reward:.3f}{error}"
        line += f"{below}reward {reward}"
        if change is not None and change.reward_change is not None:
            figures = (change.reward_change, change.reward_low, change.reward_high)
            line += "  {:+.3f} ({:+.3f} to {:+.3f})".format(*figures)
    if divergence is not None:
        there, back = divergence.base_to_tuned, divergence.tuned_to_base
        line += f"{below}KL(p0||p) {_with_error(there)}, KL(p||p0) {_with_error(back)} a token"
    return line


def _change(change: Comparison) -> str:
    return f"{change.change:+.3f} ({change.low:+.3f} to {change.high:+.3f})"


def _with_error(estimate: KlEstimate) -> str:
    error = f"{estimate.se:.1g}" if math.isfinite(estimate.se) else "?"
    value = f"{estimate.kl:.3g}" if math.isfinite(estimate.kl) else "not finite"
    return f"{value} +- {error}"


def _print_texts(measured: MeasuredTask, texts: int) -> None:
    base, last = measured.evaluations[0], measured.evaluations[-1]
    rows = [one.row for one in measured.task.encoded]
    triples = list(zip(rows, base.results, last.results, strict=True))
    for word, turned in (("gained", (False, True)), ("lost", (True, False))):
        of_word = [
            triple for triple in triples if tuple(bool(one.correct) for one in triple[1:]) == turned
        ]
        for row, before, after in of_word[:texts]:
            asked = row.questions[0].messages[-1]["content"]
            click.echo(wrapped(f"  {word} {row.id}: ", " ".join(asked.split())))
            click.echo(wrapped("    before: ", ", ".join(map(repr, before.answers))))
            click.echo(wrapped("    after:  ", ", ".join(map(repr, after.answers))))
