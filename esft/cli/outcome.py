"""What a run came to, as `esft tune` and `esft resume` print it at their end."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from esft.cli.show import change_text, duration, kl_text, sample_lines, wrapped
from esft.rollout.typed import json_text
from esft.tuning.watcher import Outcome, as_forecast

if TYPE_CHECKING:
    from esft.rollout.results import Evaluation
    from esft.stats.forgetting import Forgetting


def show_outcome(outcome: Outcome, as_json: bool, without_awd: str | None = None) -> None:
    """Print what a run came to; `without_awd` is the command that would make it without decay."""
    if as_json:
        click.echo(json_text(_record(outcome)))
        return
    lines = _samples(outcome) + _figures(outcome) + _run_lines(outcome)
    if without_awd is not None and outcome.priors:
        lines.append(f"The same without AWD: {without_awd}")
    click.echo("\n".join([*lines, ""]))
    click.echo("\n".join([*_sentence(outcome), *_matrix(outcome), "", *_next(outcome)]))


def _samples(outcome: Outcome) -> list[str]:
    lines = [line for sample in outcome.samples for line in sample_lines(sample)]
    return ["holdout rows, reward and answer before and after:", *lines, ""] if lines else []


def _figures(outcome: Outcome) -> list[str]:
    from esft.cli.knowing import knowing_lines
    from esft.rollout.results import knowing_change, paired_change

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
    for name, base, now in _compared(outcome):
        change = knowing_change(base.results, now.results)
        lines += knowing_lines(name, base.knowing, now.knowing, change)
    return lines


def _compared(outcome: Outcome) -> Iterator[tuple[str, Evaluation, Evaluation]]:
    """Yield name, base and tuned of target and prior tasks."""
    yield outcome.task, outcome.base, outcome.tuned
    for task in outcome.priors:
        yield task.name, task.base, task.now


def _run_lines(outcome: Outcome) -> list[str]:
    lines = []
    if outcome.grader_failures:
        failures = f"no score for {outcome.grader_failures:,} answers, which counted as 0"
        lines.append(f"grader     {failures}")
    lines += [wrapped("budget     ", outcome.budget.told(back)) for back in outcome.backs]
    if outcome.spent is not None:
        kept = f"model/ is that of step {outcome.spent.step}, the best within"
        lines.append(wrapped("budget     ", f"{outcome.spent}: the end; {kept}"))
    elif outcome.peak is not None:
        lines.append(wrapped("peak       ", f"{outcome.peak}; model/ is that one"))
    elif outcome.best_step == 0:
        lines.append("best       no evaluation has a better holdout reward than the base model")
    elif outcome.best_step not in (None, outcome.steps):
        best = f"step {outcome.best_step} has the best holdout reward"
        lines.append(f"best       {best}: esft export {outcome.run_path} --at best --out DIR")
    state = f"{'stopped after' if outcome.stopped else 'done:'} {outcome.steps} steps"
    memory = f"peak memory {outcome.peak_memory / 1e9:.2f} GB"
    drift = f"||D|| {outcome.drift:.3g}"
    if not as_forecast(outcome.drift, outcome.forecast):
        drift += f", forecast {outcome.forecast:.3g}"
    if outcome.kl is not None:
        lines.append(f"KL         {kl_text(outcome.kl, outcome.kl_se)} from the base model")
    return [
        *lines,
        f"drift      {drift}",
        f"run        {state}, {duration(outcome.seconds)}, {memory}",
        *([] if outcome.times is None else [f"time       {outcome.times} of the steps"]),
        f"model      {outcome.model_path or not_kept(outcome.run_path)}",
    ]


def not_kept(run: str) -> str:
    """Return how to make the model of a run that keeps none."""
    return f"not kept; esft export {run} --out DIR makes it"


def _sentence(outcome: Outcome) -> list[str]:
    from esft.evals.summary import summary
    from esft.report.read import recorded_tasks

    ended = outcome.spent or outcome.peak
    kept = None if ended is None else ended.step
    tasks, _ = recorded_tasks(Path(outcome.run_path), kept)
    return [wrapped("", f"{summary(tasks)}.")]


def _matrix(outcome: Outcome) -> list[str]:
    from esft.evals.chains import forgetting_lines

    matrix = _forgetting(outcome)
    return [] if matrix is None else ["", *(wrapped("", one) for one in forgetting_lines(matrix))]


def _forgetting(outcome: Outcome) -> Forgetting | None:
    from esft.report.read import recorded_forgetting

    return recorded_forgetting(Path(outcome.run_path)) if outcome.stages else None


def _next(outcome: Outcome) -> list[str]:
    path = Path(outcome.run_path)
    run = shlex.quote(path.name if path.parent == Path("runs") else str(path))
    commands = {
        f'esft ask {run} "QUESTION"': "both models answer",
        f"esft report {run}": "one page with all of it",
        f"esft export {run} --out DIR": "a folder to take away",
    }
    if outcome.stopped:
        commands = {f"esft resume {run}": "go on with it"} | commands
    elif outcome.best_step == 0 and not (outcome.peak or outcome.spent or outcome.stages):
        more = {f"esft resume {run} --steps {2 * outcome.steps}": "twice as many steps"}
        commands = more | commands
    width = max(map(len, commands))
    return ["next:", *(f"  {command:<{width}}  {what}" for command, what in commands.items())]


def _record(outcome: Outcome) -> dict[str, object]:
    from esft.rollout.results import knowing_change

    changes = {
        name: change
        for name, base, now in _compared(outcome)
        if (change := knowing_change(base.results, now.results)) is not None
    }
    plain = ("task", "steps", "planned", "stopped", "best_step", "grader_failures", "drift")
    plain += ("forecast", "kl", "kl_se", "peak_memory", "times")
    return {name: getattr(outcome, name) for name in plain} | {
        "run": outcome.run_path,
        "model": outcome.model_path,
        "peak": None if outcome.peak is None else vars(outcome.peak),
        "budget": {
            **vars(outcome.budget),
            "backs": [vars(back) for back in outcome.backs],
            "ended": None if outcome.spent is None else vars(outcome.spent),
        },
        "base": outcome.base.figures(),
        "tuned": outcome.tuned.figures(),
        "priors": {
            task.name: {"base": task.base.figures(), "tuned": task.now.figures()}
            for task in outcome.priors
        },
        **({"knowing": changes} if changes else {}),
        "seconds": round(outcome.seconds, 3),
        "forgetting": _forgetting(outcome),
    }
