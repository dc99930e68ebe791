"""KL divergence between two models, on continuations that one of them draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.engine.noise import derived_seed
from esft.errors import TaskError
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRow
from esft.rollout.generate import sampled
from esft.rollout.logprobs import LOGITS, Continuation, in_groups, vocabulary_logprobs

TOP = 64  # tokens of a position over which is summed: 8 MB of host memory for 10,000 positions
_SMALL = 512  # tokens that take a model less time together, padded, than in two goes
FAR = 10.0  # a token whose log-probability differs by more is far from where it was


@dataclass(frozen=True, kw_only=True)
class KlSettings:
    """On which continuations of a model, and over which tokens, divergences are estimated."""

    prompts: list[tuple[int, ...]]  # as tokens, at least one
    max_new_tokens: int  # lower where the model's context asks for it
    batches: Batches
    seed: int = 0  # of the draws, which are others for base and tuned model
    top: int = TOP  # the likeliest tokens, summed over; the vocabulary's size sums over all of it


@dataclass(frozen=True, kw_only=True)
class KlEstimate:
    """An estimate of the expected sum of KL(p(.|before) || q(.|before)) over the tokens of a
    continuation drawn from p, over the expected number of tokens; see `kl_by_position`.
    """

    kl: float  # in nats; not finite where a model overflowed, and NaN once it is read back
    se: float  # by prompt, since tokens of a prompt are correlated; NaN for a single prompt
    tokens: int  # drawn from p, the stop tokens among them
    prompts: int
    far: float
    """Share of the tokens with |log(q/p)| above `FAR`. Where it is not close to 0, rare tokens
    may carry much of the divergence: take more prompts, or a larger `top`."""


@dataclass(frozen=True)
class TokenDistributions:
    """The distributions of the tokens of one continuation, each given all that comes before it.

    float32 log-probabilities in host memory; NaN where the model overflowed.
    """

    continuation: Continuation
    own: Tensor  # (targets,): of the continuation's own tokens
    top: Tensor  # (targets, top), int64: tokens of the vocabulary that are looked at one by one
    logprobs: Tensor  # (targets, top + 1): of these, and last of all other tokens together
    among_others: Tensor  # (targets,), bool: whether the continuation's own token is not in `top`


def told_again(
    model, told: list[TokenDistributions], settings: KlSettings
) -> list[TokenDistributions]:
    """Return what another model says of the same tokens."""
    continuations = [one.continuation for one in told]
    return token_distributions(model, continuations, settings.batches, [one.top for one in told])


def sampled_continuations(
    model, tokenizer, settings: KlSettings, whose: str
) -> list[TokenDistributions]:
    """Return what is drawn from a model as it is; `whose` it is names the draws, others by name.

    TaskError if a prompt fills the model's context.
    """
    prompts, count = settings.prompts, settings.max_new_tokens
    context = getattr(model.config, "max_position_embeddings", None)
    longest = max(len(prompt) for prompt in prompts)
    if context is not None and longest >= context:
        raise TaskError(
            f"a prompt has {longest:,} tokens, expected fewer than {context:,}, the model's "
            "context, so that something can follow it",
            hint="leave the row out, or take a model with a longer context",
        )
    if context is not None:
        count = min(count, context - longest)
    seed = derived_seed(f"{whose} continuations", settings.seed)
    drawn = sampled(model, tokenizer, prompts, count, settings.batches, seed)
    continuations = [
        Continuation(prompt + tokens[:-1], tokens)
        for prompt, tokens in zip(prompts, drawn, strict=True)
    ]
    return token_distributions(model, continuations, settings.batches, settings.top)


def prompts_of(encoded: Sequence[EncodedRow], limit: int) -> list[tuple[int, ...]]:
    """Return the tokens of what stands before the answers of the first `limit` rows."""
    prompts = []
    for row in encoded[:limit]:
        if row.prompts:
            prompts.append(row.prompts[0])
        else:
            whole = (row.options or row.references)[0]
            prompts.append(whole.tokens[: len(whole.tokens) - len(whole.targets) + 1])
    return prompts


def token_distributions(
    model,
    continuations: Sequence[Continuation],
    batches: Batches,
    top: int | Sequence[Tensor],
    *,
    logits: int = LOGITS,
) -> list[TokenDistributions]:
    """Return the distributions of each continuation, at most `logits` held at once.

    `top` says which tokens are looked at one by one: so many of the likeliest at each position, or
    for each continuation its `top`, as another model chose them. In batches of the same size the
    same weights give the same bits.
    """
    tops = [top] * len(continuations) if isinstance(top, int) else top
    most = logits // model.get_output_embeddings().weight.shape[0]

    def work(batch: Sequence[tuple[Continuation, int | Tensor]]) -> list[TokenDistributions]:
        left = iter(top for _, top in batch)
        return [
            distributions
            for group in in_groups([continuation for continuation, _ in batch], most, _SMALL)
            for distributions in _distributions(model, group, [next(left) for _ in group])
        ]

    pairs = list(zip(continuations, tops, strict=True))
    return batches.run(pairs, work, length=lambda pair: len(pair[0].tokens))


@torch.inference_mode()
def _distributions(
    model, group: list[Continuation], tops: list[int] | list[Tensor]
) -> list[TokenDistributions]:
    logprobs = vocabulary_logprobs(model, group)  # (targets, vocabulary), of the whole group
    targets = [token for continuation in group for token in continuation.targets]
    wanted = torch.tensor(targets, device=model.device).unsqueeze(-1)
    own = logprobs.gather(-1, wanted).squeeze(-1)
    if isinstance(tops[0], int):
        top = logprobs.topk(min(tops[0], logprobs.shape[-1]), dim=-1).indices
    else:
        top = torch.cat(tops).to(model.device)
    single = logprobs.gather(-1, top)
    # Not 1 minus the others: what is left of a sure token would be lost in the rounding.
    others = logprobs.scatter_(-1, top, -torch.inf).logsumexp(-1, keepdim=True)
    columns = (own, top, torch.cat([single, others], dim=-1), (top != wanted).all(dim=-1))
    lengths = [len(continuation.targets) for continuation in group]
    parts = (column.cpu().split(lengths) for column in columns)
    return [TokenDistributions(*of_one) for of_one in zip(group, *parts, strict=True)]


def estimate(own: Sequence[TokenDistributions], other: Sequence[TokenDistributions]) -> KlEstimate:
    """Estimate KL(p||q) per token: a ratio of two sums over prompts.

    `own` is what p says of continuations drawn from p, one a prompt; `other`, what q says of them.
    """
    pairs = list(zip(own, other, strict=True))
    sums = [float(kl_by_position(p, q).sum()) for p, q in pairs]
    counts = [len(p.own) for p, _ in pairs]
    number, tokens = len(pairs), sum(counts)
    kl, se = sum(sums) / tokens, math.nan
    if number > 1 and math.isfinite(kl):
        # That of the linear part of the ratio: the number of tokens varies by prompt too.
        squares = math.fsum((total - kl * n) ** 2 for total, n in zip(sums, counts, strict=True))
        se = math.sqrt(squares * number / (number - 1)) / tokens
    far = sum(int(((q.own - p.own).abs() > FAR).sum()) for p, q in pairs) / tokens
    return KlEstimate(kl=kl, se=se, tokens=tokens, prompts=number, far=far)


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
