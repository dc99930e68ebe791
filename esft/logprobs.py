"""Log-probabilities of continuations."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.batches import Batches

POSITIONS = 2048
"""Positions whose logits are held at once: with 152,000 tokens in bfloat16 that is 620 MB."""


@dataclass(frozen=True)
class Continuation:
    """Tokens of a context and what comes after it."""

    tokens: tuple[int, ...]
    """Context and continuation, without the last token, which predicts nothing."""
    targets: tuple[int, ...]
    """The continuation's tokens; the last len(targets) positions of `tokens` predict them."""


def logprobs(model, continuations: list[Continuation], batches: Batches) -> list[float]:
    """Return log p(continuation | context) of each, summed over its tokens in float32.

    They go through the model in order of length, padded on the right: under causal attention no
    token sees the padding, so no mask is needed. NaN where the model overflows.
    """
    order = sorted(
        range(len(continuations)), key=lambda i: len(continuations[i].tokens), reverse=True
    )
    found = batches.run([continuations[i] for i in order], lambda batch: _sums(model, batch))
    sums = [0.0] * len(continuations)
    for i, value in zip(order, found, strict=True):
        sums[i] = value
    return sums


def _sums(model, batch: list[Continuation]) -> list[float]:
    return [value for group in _groups(batch) for value in _score(model, group)]


def _groups(batch: list[Continuation]) -> Iterator[list[Continuation]]:
    """Cut a batch where its logits would pass POSITIONS."""
    group: list[Continuation] = []
    positions = 0
    for each in batch:
        if group and positions + len(each.targets) > POSITIONS:
            yield group
            group, positions = [], 0
        group.append(each)
        positions += len(each.targets)
    yield group


@torch.inference_mode()
def _score(model, group: list[Continuation]) -> list[float]:
    width = max(len(each.tokens) for each in group)
    padded = [each.tokens + (0,) * (width - len(each.tokens)) for each in group]
    tokens = torch.tensor(padded, device=model.device)  # (group, width)
    places = [
        (row, position)
        for row, each in enumerate(group)
        for position in range(len(each.tokens) - len(each.targets), len(each.tokens))
    ]
    rows, positions = torch.tensor(places, device=model.device).unbind(1)  # (targets,) each
    with _logits_at(model, rows, positions):
        logits = model(input_ids=tokens, use_cache=False).logits[0]  # (targets, vocabulary)
    parts = logits.split([len(each.targets) for each in group])
    sums = [_logprob(part, each.targets) for part, each in zip(parts, group, strict=True)]
    return torch.stack(sums).tolist()


def _logprob(logits: Tensor, targets: tuple[int, ...]) -> Tensor:
    wanted = torch.tensor(targets, device=logits.device)
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    return logprobs.gather(-1, wanted.unsqueeze(-1)).sum()


@contextmanager
def _logits_at(model, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Let the output layer work out the logits of these positions alone, inside the block.

    It is given (1, positions, hidden) instead of (rows, width, hidden), so that neither memory
    nor time goes to logits nobody looks at.
    """
    layer = model.get_output_embeddings()
    hook = layer.register_forward_pre_hook(
        lambda _, args: (args[0][rows, positions].unsqueeze(0), *args[1:])
    )
    try:
        yield
    finally:
        hook.remove()
