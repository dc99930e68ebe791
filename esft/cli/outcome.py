"""The result of `esft tune` and `esft resume`, on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esft.cli.show import change_text, duration, gigabytes

if TYPE_CHECKING:
    from esft.tuning.watcher import Outcome


def outcome_text(outcome: Outcome) -> str:
    """Return the result of a run, for people."""
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
        count = f"{outcome.grader_failures:,}"
        lines.append(f"grader     no score for {count} answers, which counted as 0")
    if outcome.best_step not in (None, outcome.steps):
        best = "the base model" if outcome.best_step == 0 else f"step {outcome.best_step}"
        command = f"esft export {outcome.run_path} --at best --out DIR"
        lines.append(f"best       {best} has the best holdout reward: {command}")
    state = "stopped after" if outcome.stopped else "done:"
    memory = f"peak memory {gigabytes(outcome.peak_memory)}"
    lines += [
        f"drift      ||D|| {outcome.drift:.4g}, forecast {outcome.forecast:.4g}",
        f"run        {state} {outcome.steps} steps, {duration(outcome.seconds)}, {memory}",
        f"model      {outcome.model_path}",
        *([f"go on      esft resume {outcome.run_path}"] if outcome.stopped else []),
    ]
    return "\n".join(lines)


def outcome_record(outcome: Outcome) -> dict[str, object]:
    """Return the result of a run, for programs."""
    from esft.runs.records import finite

    plain = ("task", "steps", "planned", "stopped", "best_step", "grader_failures", "drift")
    plain += ("forecast", "peak_memory")
    return {name: getattr(outcome, name) for name in plain} | {
        "run": outcome.run_path,
        "model": outcome.model_path,
        "base": finite(outcome.base.summary()),
        "tuned": finite(outcome.tuned.summary()),
        "priors": {
            task.name: {"base": finite(task.base.summary()), "tuned": finite(task.now.summary())}
            for task in outcome.priors
        },
        "seconds": round(outcome.seconds, 3),
    }
