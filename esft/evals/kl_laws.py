"""What a model says of the next token in each place of a continuation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from esft.rollout.batches import Batches
from esft.rollout.logprobs import LOGITS, Continuation, in_groups, vocabulary_logprobs


@dataclass(frozen=True, kw_only=True)
class Laws:
    """The distributions of the tokens of one continuation, each given all that comes before it.

    float32 log-probabilities in host memory; NaN where the model overflowed.
    """

    drawn: Tensor
    """(targets,): of the continuation's own tokens."""
    top: Tensor
    """(targets, top), int64: tokens of the vocabulary that are looked at one by one."""
    told: Tensor
    """(targets, top + 1): of these, and last of all other tokens together."""
    among_others: Tensor
    """(targets,), bool: whether the continuation's own token is not in `top`."""


def likeliest_laws(
    model, continuations: list[Continuation], batches: Batches, top: int
) -> list[Laws]:
    """Return the laws of each continuation, the `top` likeliest tokens of each place one by one.

    Continuations go through the model as `teacher_forced` of logprobs sends them. In batches of the
    same size the same weights give the same bits.
    """
    return _laws(model, [(each, None) for each in continuations], batches, top)


def laws_at(
    model, continuations: list[Continuation], batches: Batches, tops: list[Tensor]
) -> list[Laws]:
    """Return the laws of each continuation, the tokens `tops` of each place one by one."""
    return _laws(model, list(zip(continuations, tops, strict=True)), batches, 0)


_Item = tuple[Continuation, Tensor | None]


def _laws(model, items: list[_Item], batches: Batches, top: int) -> list[Laws]:
    order = sorted(range(len(items)), key=lambda i: len(items[i][0].tokens), reverse=True)
    found = batches.run([items[i] for i in order], lambda batch: _batch(model, batch, top))
    results = dict(zip(order, found, strict=True))
    return [results[i] for i in range(len(items))]


def _batch(model, batch: list[_Item], top: int) -> list[Laws]:
    most = LOGITS // model.get_output_embeddings().weight.shape[0]
    tops = iter([tokens for _, tokens in batch])
    return [
        laws
        for group in in_groups([each for each, _ in batch], most)
        for laws in _group(model, group, [next(tops) for _ in group], top)
    ]


@torch.inference_mode()
def _group(model, group: list[Continuation], tops: list[Tensor | None], top: int) -> list[Laws]:
    logprobs = vocabulary_logprobs(model, group)
    targets = [token for each in group for token in each.targets]
    wanted = torch.tensor(targets, device=model.device).unsqueeze(-1)
    drawn = logprobs.gather(-1, wanted).squeeze(-1)
    if tops[0] is None:
        singled = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1).indices
    else:
        singled = torch.cat(tops).to(model.device)
    told = logprobs.gather(-1, singled)
    # Not 1 minus the others: what is left of a sure token would be lost in the rounding.
    rest = logprobs.scatter_(-1, singled, -torch.inf).logsumexp(-1, keepdim=True)
    told = torch.cat([told, rest], dim=-1)
    lengths = [len(each.targets) for each in group]
    others = (singled != wanted).all(dim=-1)
    every = [each.cpu().split(lengths) for each in (drawn, singled, told, others)]
    return [
        Laws(drawn=one, top=two, told=three, among_others=four)
        for one, two, three, four in zip(*every, strict=True)
    ]
