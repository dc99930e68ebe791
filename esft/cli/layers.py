"""Where a change sits, as `esft eval --layers` prints it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from esft.cli.knowing import shown

if TYPE_CHECKING:
    from esft.evals.results import StepDrift, TaskResult
    from esft.runs.records import StepScore


def largest_lines(task: TaskResult) -> Iterator[str]:
    """Yield what is left of the change in each measure of a task with the largest changes alone;
    nothing where nobody asked."""
    if not task.largest:
        return
    measures = ["accuracy"]
    if task.change.reward_change is not None:
        measures.append("reward")
    if task.after.knowing is not None:
        measures.append("d_prime")
    for measure in measures:
        line = f"  {measure} by the largest changes of step {task.after.step} alone"
        if getattr(task.largest[0], measure) is None:
            yield f"{line}: too little change to tell"
            continue
        yield line
        for one in task.largest:
            part = f"{one.percent:g}%" if one.scale == 1 else f"all x {one.scale:.2f}"
            text = f"    {part:>10}  {_value(one.score, measure)}"
            whole = one is task.largest[0]
            if not whole and (kept := getattr(one, measure)) is not None:
                text += f"  keeps {kept.share:.2f} ({kept.low:.2f} to {kept.high:.2f})"
            yield text


def layer_lines(drift: StepDrift) -> Iterator[str]:
    """Yield what the largest changes of a step are, and ||D|| layer by layer; nothing where nobody
    asked."""
    if not drift.largest:
        return
    for one in drift.largest if drift.norm else ():
        yield (
            f"  largest {one.percent:>2g}%: |D| from {one.least:.3g}, {one.share:.1%} of weights, "
            f"{(one.norm / drift.norm) ** 2:.0%} of ||D||^2"
        )
    width = max(5, *(len(layer.name) for layer in drift.layers))
    yield f"  {'layer':{width}}  {'weights':>13}  {'||D||':>9}  {'a weight':>9}"
    for layer in drift.layers:
        figures = f"{layer.norm:>9.4g}  {layer.norm / math.sqrt(layer.numel):>9.3g}"
        yield f"  {layer.name:{width}}  {layer.numel:>13,}  {figures}"


def _value(score: StepScore, measure: str) -> str:
    if measure == "d_prime":
        if score.knowing is None:  # these changes alone make the model overflow
            return "not finite"
        return shown(score.knowing.measures["d_prime"])
    value, error = score.accuracy, score.se
    if measure == "reward":
        value, error = score.reward, score.reward_se
    if value is None:
        return "not finite"
    return f"{value:.3f}" if error is None else f"{value:.3f} +- {error:.3f}"
