"""The anchor in distribution: how far the answers of members are from those of the base model."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from pathlib import Path

from esft.engine.batched import BatchedModel
from esft.errors import RecipeError
from esft.models.load import LoadedModel
from esft.models.outline import Outline
from esft.recipe.check import read_text
from esft.recipe.priors import PriorSpec
from esft.recipe.settings import Recipe
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRow, encode_prompt
from esft.rollout.kl import (
    TOP,
    KlEstimate,
    KlSettings,
    TokenDistributions,
    estimate,
    prompts_of,
    sampled_continuations,
    token_distributions,
)
from esft.tasks.task import Row, ask
from esft.tuning.tasks import EvalTask, eval_task, unmeasured_rows

_PROMPTS = 16
"""Of a task or a file, at most, where nothing else is said."""
_SHARE = 0.15
"""Of the tokens of a member's rows, those that it reads of prompts where nothing else is said. They
take about 1.3 times as long, since all of the vocabulary counts."""
_LOGITS = 2**25
"""Logits held at once, which no trial of the batch has seen: 134 MB, and a few times that."""
_SENTENCE = 12
"""Characters from which on a prompt is looked for within what rows ask."""

Prompt = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class AnchorPrompts:
    """Prompts that nothing is measured on, as tokens."""

    of: Mapping[str, tuple[Prompt, ...]]  # by task or file
    new_tokens: int  # of a continuation, at most
    per_step: int  # all of them where no step looks at any
    share: float  # of a step: tokens with those of continuations, over those of a member's rows

    @property
    def turns(self) -> list[list[Prompt]]:
        """The prompts of each turn: a step has one, and after the last comes the first again."""
        mixed = [one for some in zip_longest(*self.of.values()) for one in some if one]
        turns = math.ceil(len(mixed) / self.per_step)
        ends = [len(mixed) * turn // turns for turn in range(turns + 1)]
        return [mixed[start:end] for start, end in pairwise(ends)]

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(map(len, self.of.values()))

    @property
    def hash(self) -> str:
        """Hash of their tokens."""
        return hashlib.sha256(repr(self.turns).encode()).hexdigest()[:16]


class AnchorKl:
    """KL(p_a||p) a token of a model or of members, on continuations that the base model drew; the
    anchor p_a is the base too, unless it moves.

    Its continuations and its log-probabilities of the likeliest tokens are made here, once, so the
    model must be at the base weights now. TaskError if a prompt fills the model's context.

    Args:
        batched: what holds the members, where they share batches.
    """

    def __init__(
        self, loaded: LoadedModel, prompts: AnchorPrompts, batched: BatchedModel | None = None
    ) -> None:
        self._model, self._batched = loaded.model, batched
        # Of its own: that of the rollouts may be halved, and a resumed run must draw the same.
        self._batches = Batches()
        how = {"max_new_tokens": prompts.new_tokens, "batches": self._batches}
        self._told: dict[int, list[TokenDistributions]] = {}  # anew, by step
        self._turns = [
            sampled_continuations(
                loaded.model, loaded.tokenizer, KlSettings(prompts=some, **how), "anchor"
            )
            for some in prompts.turns
        ]

    def tell_anew(self, step: int) -> None:
        """Take the model as it is for the anchor of a step, in what it says of the base's
        continuations."""
        told = [one.continuation for one in self._turn(step)]
        made = token_distributions(self._model, told, self._batches, TOP, logits=_LOGITS)
        self._told = {step: made}

    def of_model(self, step: int) -> float:
        """Return that of the model as it is, on the prompts of a step; NaN where it overflows."""
        return self._of(step, self._model, [None])[0]

    def of_members(self, step: int, count: int) -> list[float]:
        """Return those of so many members that the batched model holds."""
        return self._of(step, self._batched, range(count))

    def of_all(self) -> KlEstimate:
        """Return that of the model as it is, on all prompts."""
        made = []
        for anchor in self._turns:  # as the base model's were made, to the bit
            told, tops = [one.continuation for one in anchor], [one.top for one in anchor]
            made += token_distributions(self._model, told, self._batches, tops, logits=_LOGITS)
        return estimate([one for anchor in self._turns for one in anchor], made)

    def _of(self, step: int, model, members: Sequence[int | None]) -> list[float]:
        anchor = self._told.get(step) or self._turn(step)
        told = [replace(one.continuation, member=member) for member in members for one in anchor]
        tops = [one.top for one in anchor] * len(members)
        made = token_distributions(model, told, self._batches, tops, logits=_LOGITS)
        starts = range(0, len(made), len(anchor))
        return [estimate(anchor, made[at : at + len(anchor)]).kl for at in starts]

    def _turn(self, step: int) -> list[TokenDistributions]:
        return self._turns[(step - 1) % len(self._turns)]


def penalized(rewards: Sequence[float], kls: Sequence[float] | None, weight: float) -> list[float]:
    """Return what members are ranked by: reward less `weight` a nat of KL."""
    if kls is None:
        return list(rewards)
    return [reward - weight * kl for reward, kl in zip(rewards, kls, strict=True)]


def anchor_prompts(
    recipe: Recipe,
    model: LoadedModel | Outline,
    tasks: Sequence[EvalTask],
    train: Sequence[EncodedRow],
) -> AnchorPrompts | None:
    """Return the prompts of [anchor] kl and max_kl, none of which asks what a row of `tasks` asks;
    None where there is neither.

    Args:
        tasks: the target, then the prior tasks.
        train: rows that are tuned on.

    Raises:
        TaskError: a task has too few rows that are not measured.
        RecipeError: a file has no prompts, too few, or one that is measured.
    """
    anchor = recipe.anchor
    if not anchor.kl and anchor.max_kl is None:
        return None
    measured = [one.row for task in tasks for one in task.encoded]
    priors = {spec.name: spec for spec in recipe.prior.specs}
    found: dict[str, tuple[Prompt, ...]] = {}
    tokens = 0
    for source in anchor.kl_sources or priors.values():
        if isinstance(source, Path):
            texts = _read_prompts(source, anchor.kl_prompts, measured)
            prompts = [encode_prompt(model.tokenizer, ask(text)) for text in texts]
            tokens += sum(len(prompt) + anchor.kl_tokens for prompt in prompts)
        else:
            bare = source == PriorSpec(name=source.name)
            spec = priors.get(source.name, source) if bare else source
            one = _task(recipe, spec, model, measured)
            prompts = prompts_of(one.encoded, len(one.encoded))
            for prompt, row in zip(prompts, one.encoded, strict=True):
                longest = row.longest(one.rollout.max_new_tokens)
                tokens += min(longest, len(prompt) + anchor.kl_tokens)
        found[str(source)] = tuple(prompts)
    count, rows = sum(map(len, found.values())), recipe.task.rows_per_step or len(train)
    of_rows = rows * sum(map(tasks[0].rollout.tokens, train)) / len(train)
    share = tokens / count / of_rows  # of a prompt
    per_step = min(count, anchor.kl_per_step or max(1, int(_SHARE / share)))
    if not anchor.kl:
        per_step, share = count, 0.0
    return AnchorPrompts(
        of=found, new_tokens=anchor.kl_tokens, per_step=per_step, share=per_step * share
    )


def _task(
    recipe: Recipe, spec: PriorSpec, model: LoadedModel | Outline, measured: Sequence[Row]
) -> EvalTask:
    """Return a task with rows that are not measured."""
    wanted, keys = recipe.anchor.kl_prompts, {row.key for row in measured}
    task, rows = unmeasured_rows(spec, recipe.task.data_dir, keys, wanted)
    return eval_task("prior", task, spec, rows[: wanted or _PROMPTS], model, Batches())


def _read_prompts(file: Path, wanted: int | None, measured: Sequence[Row]) -> list[str]:
    lines = read_text(file, "name a file with a prompt a line").split("\n")
    prompts = {n: text.strip() for n, text in enumerate(lines, start=1) if text.strip()}
    if len(prompts) < (wanted or 1):
        raise RecipeError(
            f"{file} has {len(prompts)} prompts, one a line, expected {wanted or 'some'}",
            hint="add lines" + f", or set anchor.kl_prompts to {len(prompts)}" * bool(prompts),
        )
    keys = {row.key for row in measured}
    asked = "\0".join(_plain(row.shown["question"]) for row in measured)
    seen = [
        f"line {number}"
        for number, text in prompts.items()
        if Row(id="", questions=(ask(text),)).key in keys
        or (len(text) >= _SENTENCE and _plain(text) in asked)
    ]
    if seen:
        more = f" and {len(seen) - 3} more" if len(seen) > 3 else ""
        raise RecipeError(
            f"{file}: {', '.join(seen[:3])}{more} asks what a row asks that the run is measured "
            "on, expected other prompts: a pull towards the base there would pass for nothing lost",
            hint="take these lines out",
        )
    return list(prompts.values())[: wanted or _PROMPTS]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
