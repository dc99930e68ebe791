"""What pulls a run back to the base weights, and how: the [anchor] table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from esft.recipe.check import Settings, setting
from esft.recipe.priors import PriorSpec, kl_source, parse_kl_tasks
from esft.recipe.rules import ANCHOR_RULES

TAU = 0.02
"""What tau is where the anchor moves and nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class Anchor(Settings):
    """What pulls the weights back to the base weights: the [anchor] table."""

    table = "anchor"
    rules = ANCHOR_RULES

    awd: float = setting(
        "Anchored weight decay towards the base weights, per unit of alpha; 0 is off",
        0.0,
        example=0.01,
        flag="--awd",
        at_least=0,
    )
    norm: str = setting(
        "Norm of the drift that the decay shrinks, l1 by a constant pull, l2 by a share",
        "l1",
        flag="--awd-norm",
        choices=("l1", "l2"),
    )
    move: str = setting(
        "What decay and KL pull towards: the base (none), an anchor that follows the weights by a "
        "share tau of what is between them a step (ema), or where the stage before ended (stage), "
        "so that what was learned long ago is no longer pulled back; it takes as much memory as "
        "the drift",
        "none",
        choices=("none", "ema", "stage"),
    )
    tau: float | None = setting(
        "This share: the anchor is about 1/tau steps behind; 0 leaves it at the base",
        example=0.05,
        unset=f"{TAU:g} with ema",
        at_least=0,
        at_most=1,
    )
    store: str = setting(
        "Where the base weights lie: mapped from the checkpoint, without memory of their own, "
        "or copied; auto takes the fastest that fits beside weights and batch",
        "auto",
        choices=("auto", "disk", "cpu", "device"),
    )
    drift: str = setting(
        "How the drift is kept; replay keeps none of codes, and makes 50 steps again in each",
        "float16",
        choices=("float32", "float16", "int8", "replay"),
    )
    drift_store: str | None = setting(
        "Where the drift lies",
        unset="where the base weights lie, the CPU where they are on disk",
        choices=("cpu", "device"),
    )
    kl: float = setting(
        "What a nat of KL divergence from the base model, a token of its own continuations of "
        "some prompts, takes from a member's reward; 0 is off",
        0.0,
        example=1.0,
        flag="--anchor-kl",
        at_least=0,
    )
    kl_tasks: tuple[str, ...] | None = setting(
        "Where these prompts come from: tasks, of whose train rows those are taken that nothing is "
        "measured on, or a .txt file with a prompt a line",
        example=("gsm8k", "prompts.txt"),
        unset="the prior tasks",
        read=parse_kl_tasks,
    )
    kl_prompts: int | None = setting(
        "Prompts of each of them", example=16, unset="16, or what there is"
    )
    kl_per_step: int | None = setting(
        "Prompts that a step looks at, in turn",
        example=12,
        unset="as many as make 15 % of the tokens of a member's rows",
    )
    kl_tokens: int = setting("Tokens of a continuation, at most", 16)

    max_kl: float | None = setting(
        "Nats of KL divergence from the base model, a token on those prompts, at most: where an "
        "evaluation (every prior.every steps, and the last) is above, the run goes back to the "
        "last that was not, with a stronger decay, up to three times",
        example=0.05,
        unset="no limit",
        flag="--max-kl",
        above=0,
    )
    max_drift: float | None = setting(
        "The same for the norm of the drift, ||D|| in the table of steps",
        example=20.0,
        unset="no limit",
        flag="--max-drift",
        above=0,
    )

    @property
    def budgeted(self) -> bool:
        """Whether there is a limit to how far the model may go from the base model."""
        return self.max_kl is not None or self.max_drift is not None

    @property
    def moves(self) -> bool:
        """Whether there is an anchor beside the base weights."""
        return self.move != "none"

    @property
    def follows(self) -> float:
        """Tau of every step, but for the last of a stage."""
        return 0.0 if self.move != "ema" else TAU if self.tau is None else self.tau

    def follows_at(self, last: bool) -> float:
        """Return tau of a step, which may be the `last` of a stage: then all of it."""
        return 1.0 if last and self.move == "stage" else self.follows

    @property
    def kl_sources(self) -> tuple[PriorSpec | Path, ...]:
        """Tasks and files that prompts come from; none stand for the prior tasks."""
        return tuple(map(kl_source, self.kl_tasks or ()))
