"""What a step of a run scores with a part of its changes, the largest ones, against all of them.

Source: arXiv:2602.02605, which applies the largest changes alone to ask where a skill sits.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from esft.engine.largest import at_largest
from esft.evals.measure import Measurer
from esft.evals.measured import MeasuredTask
from esft.evals.results import StepDrift
from esft.evals.steps import RunSteps, Steps
from esft.rollout.evaluate import ModelVersion
from esft.tuning.watcher import Watcher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PERCENTS = (50.0, 20.0, 10.0, 5.0)
"""Beside 100, which is the step as it is."""
EVEN = 10.0
"""All of D is applied too, times the share of ||D||^2 that the largest so many percent have: of a
change that sits in all weights alike as much is left then, also where a measure levels off."""


@dataclass(frozen=True)
class _Part:
    """Changes that are applied: |D| from `least`, multiplied by `scale`."""

    percent: float
    least: float
    scale: float = 1.0

    def __str__(self) -> str:
        return (
            f"the largest {self.percent:g}% of D alone"
            if self.scale == 1
            else f"all of D times {self.scale:.2f}"
        )


def measure_largest(
    steps: RunSteps, drift: StepDrift, tasks: Sequence[MeasuredTask], watcher: Watcher
) -> None:
    """Evaluate tasks, which keep it, on the step of a drift with the largest of its changes alone,
    and, unless they are of codes, which round, with all of them made smaller. `steps` are at that
    step, or before. Other processes of a torchrun have no part in it."""
    parts = [_Part(one.percent, one.least) for one in drift.largest]
    (even,) = (one.norm for one in drift.largest if one.percent == EVEN)
    if drift.norm and not steps.base.weights.coded:
        parts.append(_Part(100.0, 0.0, (even / drift.norm) ** 2))
    for part in parts:
        with ExitStack() as block:
            measurer = Measurer(_WithPart(steps, part, watcher, block), watcher)
            for measured in tasks:
                found = measurer.evaluation(drift.step, measured.task)
                measured.largest[part.percent, part.scale] = found


class _WithPart(Steps):
    """A step of a run with a part of its changes, held in the weights from when they are asked for
    to the end of `block`."""

    def __init__(self, steps: RunSteps, part: _Part, watcher: Watcher, block: ExitStack) -> None:
        self.numbers, self.loaded = steps.numbers, steps.loaded
        self._steps, self._part, self._watcher, self._block = steps, part, watcher, block
        self._held = False

    def version(self, step: int) -> ModelVersion:
        """Return the version of the step, and which of its changes are applied."""
        whole, part = self._steps.version(step), self._part
        return replace(whole, journal=f"{whole.journal}, {part.scale!r} D from {part.least!r}")

    def at(self, step: int) -> PreTrainedModel:
        """Return the model of the step with these changes."""
        model, part = self._steps.at(step), self._part
        if not self._held:
            self._watcher.phase(f"step {step}: {part}")
            held = at_largest(self._steps.base.drift, part.least, part.scale)
            self._block.enter_context(held)
            self._held = True
        return model
