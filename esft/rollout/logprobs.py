"""Log-probabilities of continuations."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.rollout.batches import Batches

LOGITS = 2**27
"""Logits held at once: 537 MB in float32, beside them as many log-probabilities."""


@dataclass(frozen=True)
class Continuation:
    """Tokens of a context and what comes after it."""

    tokens: tuple[int, ...]
    """Context and continuation, without the last token, which predicts nothing."""
    targets: tuple[int, ...]
    """The continuation's tokens; the last len(targets) positions of `tokens` predict them."""


@dataclass(frozen=True)
class TeacherForced:
    """What a model makes of a continuation that is given to it token by token."""

    logprob: float
    """log p(continuation | context), summed over its tokens; NaN where the model overflows."""
    argmax: tuple[int, ...]
    """The likeliest token in the place of each: where they are the continuation's own, greedy
    decoding gives the continuation."""


def logprobs(model, continuations: list[Continuation], batches: Batches) -> list[float]:
    """Return log p(continuation | context) of each, as `teacher_forced` does."""
    return [each.logprob for each in teacher_forced(model, continuations, batches)]


def teacher_forced(
    model, continuations: list[Continuation], batches: Batches
) -> list[TeacherForced]:
    """Return the log-probability and the argmax of each, worked out in float32.

    They go through the model in order of length, padded on the right: under causal attention no
    token sees the padding, so no mask is needed.
    """
    order = sorted(
        range(len(continuations)), key=lambda i: len(continuations[i].tokens), reverse=True
    )
    found = batches.run([continuations[i] for i in order], lambda batch: _batch(model, batch))
    results: list[TeacherForced | None] = [None] * len(continuations)
    for i, result in zip(order, found, strict=True):
        results[i] = result
    return results


def _batch(model, batch: list[Continuation]) -> list[TeacherForced]:
    most = LOGITS // model.get_output_embeddings().weight.shape[0]
    return [result for group in in_groups(batch, most) for result in _score(model, group)]


def in_groups(batch: list[Continuation], most: int) -> Iterator[list[Continuation]]:
    """Cut a batch where it would have more than `most` targets."""
    group: list[Continuation] = []
    positions = 0
    for each in batch:
        if group and positions + len(each.targets) > most:
            yield group
            group, positions = [], 0
        group.append(each)
        positions += len(each.targets)
    yield group


@torch.inference_mode()
def _score(model, group: list[Continuation]) -> list[TeacherForced]:
    logprobs = vocabulary_logprobs(model, group)
    wanted = torch.tensor([token for each in group for token in each.targets], device=model.device)
    found = logprobs.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)  # (targets,)
    lengths = [len(each.targets) for each in group]
    sums = torch.stack([part.sum() for part in found.split(lengths)]).tolist()
    argmax = logprobs.argmax(dim=-1).split(lengths)
    return [
        TeacherForced(total, tuple(part.tolist())) for total, part in zip(sums, argmax, strict=True)
    ]


def vocabulary_logprobs(model, group: list[Continuation]) -> Tensor:
    """Return log p of the whole vocabulary for each target: float32, (targets, vocabulary)."""
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
    return torch.log_softmax(logits.float(), dim=-1)


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
