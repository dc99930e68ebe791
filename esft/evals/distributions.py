"""What a model says of the next token at each position of a continuation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.rollout.batches import Batches
from esft.rollout.logprobs import LOGITS, Continuation, in_groups, vocabulary_logprobs


@dataclass(frozen=True, kw_only=True)
class TokenDistributions:
    """The distributions of the tokens of one continuation, each given all that comes before it.

    float32 log-probabilities in host memory; NaN where the model overflowed.
    """

    own: Tensor
    """(targets,): of the continuation's own tokens."""
    top: Tensor
    """(targets, top), int64: tokens of the vocabulary that are looked at one by one."""
    logprobs: Tensor
    """(targets, top + 1): of these, and last of all other tokens together."""
    among_others: Tensor
    """(targets,), bool: whether the continuation's own token is not in `top`."""


def token_distributions(
    model,
    continuations: Sequence[Continuation],
    batches: Batches,
    top: int | Sequence[Tensor],
    *,
    logits: int = LOGITS,
) -> list[TokenDistributions]:
    """Return the distributions of each continuation.

    Continuations go through the model as `teacher_forced` sends them. In batches of the same size
    the same weights give the same bits.

    Args:
        top: the tokens looked at one by one: so many of the likeliest at each position, or for
            each continuation its `top`, as another model chose them.
        logits: held at once, at most.
    """
    tops = [top] * len(continuations) if isinstance(top, int) else top
    most = logits // model.get_output_embeddings().weight.shape[0]

    def work(batch: Sequence[tuple[Continuation, int | Tensor]]) -> list[TokenDistributions]:
        left = iter(top for _, top in batch)
        return [
            distributions
            for group in in_groups([continuation for continuation, _ in batch], most)
            for distributions in _of_group(model, group, [next(left) for _ in group])
        ]

    pairs = list(zip(continuations, tops, strict=True))
    return batches.run(pairs, work, length=lambda pair: len(pair[0].tokens))


@torch.inference_mode()
def _of_group(
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
    among_others = (top != wanted).all(dim=-1)
    lengths = [len(continuation.targets) for continuation in group]
    columns = (own, top, torch.cat([single, others], dim=-1), among_others)
    return [
        TokenDistributions(own=own, top=top, logprobs=logprobs, among_others=among_others)
        for own, top, logprobs, among_others in zip(
            *(column.cpu().split(lengths) for column in columns), strict=True
        )
    ]
