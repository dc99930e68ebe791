"""The model card of the embedded model."""

import math
import platform
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transformers

from esft.embedded.form import ANSWER_SIGN
from esft.tasks.synthetic import PRIORS, TARGETS
from esft.tasks.synthetic_rows import KINDS, puzzles
from esft.tasks.task import Task

_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [esft, synthetic]
---

# The model embedded in esft

A Llama of {weights:,} weights (float32, one token a character) that answers questions of a few
characters. It is there to show in two minutes on a laptop what fine-tuning does to what a model
knew before: it knows the prior tasks, and it does the target tasks badly on purpose. It is of no
other use.

## Scores

Share of held-out rows (test split) whose greedy answer is exactly right, +- standard error. The
model was trained on no row of that split, nor on one that differs from it by the order of its
letters or digits alone.

| task | role | asked | answer | rows | correct |
|---|---|---|---|---|---|
{scores}

## Use

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

The chat template writes the question and `{sign}`; the answer follows and ends with `<end>`, so
that a whole text reads `reverse dgac{sign}cagd<end>`. Letters, digits and the other printable
characters of ASCII are known; most of them were never trained on.

## Training

From nothing, by backpropagation (AdamW), on the answers to generated questions of the train
splits, {batch} a step: equal shares of the prior tasks, and of each target task the fewer, the
nearer its validation accuracy was to {held_at:.0%}, measured every {every} steps. That keeps the
target tasks half known, if loosely: their accuracy swings while the learning rate is high.

    {command}

took {minutes:.1f} minutes on {machine} (CPU threads: {threads}), Python {python}, torch {torch},
transformers {transformers}. The same command gives the same bits on the same machine, versions and
number of threads; elsewhere a target task may end well above or below its score here. All
settings:

{settings}

Made by esft from rows that it generates; licence Apache-2.0.
"""


@dataclass(frozen=True, kw_only=True)
class Made:
    """How a model was made, and what came out."""

    training: Any
    """The settings, a dataclass."""
    command: str
    threads: int
    seconds: float
    weights: int
    """Number of parameters."""
    scores: dict[str, float]
    """Accuracy of each synthetic task on its test split, 0 to 1."""


def card(made: Made) -> str:
    """The text of README.md for a model made so, on this machine."""
    settings = asdict(made.training)
    rows = [
        *(_row(task, "prior", made.scores[task.name]) for task in PRIORS),
        *(_row(task, "target", made.scores[task.name]) for task in TARGETS),
    ]
    return _CARD.format(
        weights=made.weights,
        scores="\n".join(rows),
        sign=ANSWER_SIGN,
        batch=settings["batch"],
        held_at=settings["held_at"],
        every=settings["every"],
        command=made.command,
        minutes=made.seconds / 60,
        threads=made.threads,
        machine=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        settings="\n".join(f"- {name} {value:g}" for name, value in settings.items()),
    )


def _row(task: Task, role: str, score: float) -> str:
    count = KINDS[task.name].sizes["test"]
    error = math.sqrt(score * (1 - score) / count)
    first = next(puzzles(task.name, "train"))
    return (
        f"| `{task.name}` | {role} | `{first.prompt}` | `{first.answer}` | {count:,} "
        f"| {score:.1%} +- {error:.1%} |"
    )
