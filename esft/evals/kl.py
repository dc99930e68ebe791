"""KL divergence between the base model p0 and the tuned model p, in both directions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.engine.drift import Drift
from esft.engine.noise import derived_seed
from esft.errors import TaskError
from esft.evals.distributions import TokenDistributions, token_distributions
from esft.evals.results import KlEstimate
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRows
from esft.rollout.logprobs import Continuation
from esft.rollout.sample import sampled

TOP = 64
"""Tokens at each position over which is summed: 8 MB of host memory for 10,000 positions."""

FAR = 10.0
"""A token whose log-probability differs by more than this is far from where it was."""


@dataclass(frozen=True, kw_only=True)
class SampledContinuations:
    """Continuations drawn from a model, with what it says of them."""

    continuations: tuple[Continuation, ...]
    distributions: tuple[TokenDistributions, ...]

    def told_by(self, model, batches: Batches) -> list[TokenDistributions]:
        """Return what a model says of the same tokens."""
        tops = [distributions.top for distributions in self.distributions]
        return token_distributions(model, self.continuations, batches, tops)


def kl_between(
    model,
    tokenizer,
    drift: Drift,
    prompts: list[tuple[int, ...]],
    max_new_tokens: int,
    batches: Batches,
    seed: int,
    *,
    top: int = TOP,
    base: SampledContinuations | None = None,
) -> tuple[KlEstimate, KlEstimate]:
    """Estimate (KL(p0||p), KL(p||p0)) per token: base to tuned, then tuned to base.

    The first on continuations of the base model, the second on the tuned model's own. The
    weights go to the base and back once.

    Args:
        model: at its tuned weights, which come back to their exact bits.
        tokenizer: its tokenizer.
        drift: of the model's weights.
        prompts: as tokens, at least one prompt.
        max_new_tokens: cap on a continuation; lower where the model's context asks for it.
        batches: how many sequences at a time.
        seed: of the draws, which are others in the two directions.
        top: the likeliest tokens of each position, over which is summed; the size of the
            vocabulary sums exactly over all of it.
        base: what `sampled_at_base` gave for the same prompts and settings; None draws it.

    Raises:
        ValueError: if there is no prompt.
        TaskError: if a prompt fills the model's context.
        AnchorError: if a step was interrupted half-way.
    """
    settings = (model, tokenizer, prompts, max_new_tokens, batches)
    tuned = _sampled(*settings, derived_seed("tuned continuations", seed), top)
    with drift.at_base():
        if base is None:
            base = sampled_at_base(*settings, seed, top=top)
        tuned_told_by_base = tuned.told_by(model, batches)
    base_told_by_tuned = base.told_by(model, batches)
    return (
        estimate(base.distributions, base_told_by_tuned),
        estimate(tuned.distributions, tuned_told_by_base),
    )


def sampled_at_base(
    model,
    tokenizer,
    prompts: list[tuple[int, ...]],
    max_new_tokens: int,
    batches: Batches,
    seed: int,
    *,
    top: int = TOP,
) -> SampledContinuations:
    """Return what `kl_between` draws from the base model, which the weights must be at.

    All steps of a run can be compared with it.
    """
    seed = derived_seed("base continuations", seed)
    return _sampled(model, tokenizer, prompts, max_new_tokens, batches, seed, top)


def prompts_of(encoded: EncodedRows, limit: int) -> list[tuple[int, ...]]:
    """Return the tokens that the first `limit` rows begin with.

    Those of the first question where an answer is generated, of the context of the first option
    where options are scored, and of what stands before the reference where that is.
    """
    if encoded.prompts:
        return [prompts[0] for prompts in encoded.prompts[:limit]]
    wholes = [several[0] for several in (encoded.options or encoded.references)[:limit]]
    return [whole.tokens[: len(whole.tokens) - len(whole.targets) + 1] for whole in wholes]


def estimate(own: Sequence[TokenDistributions], other: Sequence[TokenDistributions]) -> KlEstimate:
    """Estimate KL(p||q) per token: a ratio of two sums over prompts.

    Args:
        own: what p says of continuations drawn from p, one a prompt.
        other: what q says of the same tokens.
    """
    pairs = list(zip(own, other, strict=True))
    sums = [float(kl_by_position(p, q).sum()) for p, q in pairs]
    counts = [len(p.own) for p, _ in pairs]
    tokens = sum(counts)
    kl = sum(sums) / tokens
    return KlEstimate(
        kl=kl,
        se=_ratio_error(sums, counts, kl),
        tokens=tokens,
        prompts=len(counts),
        far=sum(int(((q.own - p.own).abs() > FAR).sum()) for p, q in pairs) / tokens,
    )


def kl_by_position(p: TokenDistributions, q: TokenDistributions) -> Tensor:
    """Return what each position of a continuation of p adds to KL(p||q), (targets,) float64.

    Summed over the tokens that are looked at one by one, with all others as one more; where the
    token drawn is among those others, plus r - 1 - log r with r = q/p among the others alone. By
    the chain rule its mean over draws from p is KL(p||q), for any choice of tokens: unbiased,
    never negative, exactly 0 where p = q.

    Only the others can be misjudged: where much of q lies on tokens among them that p hardly
    ever draws, such a token counts as q/p when it comes, and as nothing in the many samples in
    which it does not come; value and standard error are then mostly too low, by at most the KL
    among the others times their probability. Finite values stay finite: q/p <= 1/p, and what is
    below e^-33 is never drawn.
    """
    p_log, q_log = p.logprobs.double(), q.logprobs.double()
    terms = q_log.exp() - p_log.exp() - p_log.exp() * (q_log - p_log)
    # What has probability 0 under p adds q alone: 0 * log(0/q) counts as 0.
    terms = torch.where(p_log == -torch.inf, q_log.exp(), terms)
    among = (q.own.double() - q_log[:, -1]) - (p.own.double() - p_log[:, -1])
    rest = torch.where(p.among_others, torch.expm1(among) - among, 0.0)
    # Rounding alone can bring a sum of terms that are not negative below 0.
    return (terms.sum(dim=-1) + rest).clamp(min=0)


def _sampled(
    model,
    tokenizer,
    prompts: list[tuple[int, ...]],
    max_new_tokens: int,
    batches: Batches,
    seed: int,
    top: int,
) -> SampledContinuations:
    if not prompts:
        raise ValueError("there is no prompt, expected at least one")
    context = getattr(model.config, "max_position_embeddings", None)
    longest = max(len(prompt) for prompt in prompts)
    if context is not None and longest >= context:
        raise TaskError(
            f"a prompt has {longest:,} tokens, expected fewer than {context:,}, the model's "
            "context, so that something can follow it",
            hint="leave the row out, or take a model with a longer context",
        )
    count = max_new_tokens if context is None else min(max_new_tokens, context - longest)
    continuations = tuple(
        Continuation(prompt + tokens[:-1], tokens)
        for prompt, tokens in zip(
            prompts, sampled(model, tokenizer, prompts, count, batches, seed), strict=True
        )
    )
    return SampledContinuations(
        continuations=continuations,
        distributions=tuple(token_distributions(model, continuations, batches, top)),
    )


def _ratio_error(sums: list[float], counts: list[int], ratio: float) -> float:
    """Return the standard error of the linear part of a ratio of sums over prompts."""
    number = len(sums)
    if number == 1 or not math.isfinite(ratio):
        return math.nan
    squares = math.fsum(
        (total - ratio * count) ** 2 for total, count in zip(sums, counts, strict=True)
    )
    return math.sqrt(squares * number / (number - 1)) / sum(counts)
