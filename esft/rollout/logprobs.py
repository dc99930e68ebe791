"""Log-probabilities of continuations."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from esft.rollout.batches import Batches

Item = TypeVar("Item")

LOGITS = 2**27
"""Logits held at once: 537 MB in float32, beside them as many log-probabilities."""
PADDING = 1 / 10
"""Of the tokens that go through a model at once, fewer than this share are padding."""


@dataclass(frozen=True)
class Continuation:
    """Tokens of a context and what comes after it."""

    tokens: tuple[int, ...]
    """Context and continuation, without the last token, which predicts nothing."""
    targets: tuple[int, ...]
    """The continuation's tokens; the last len(targets) positions of `tokens` predict them."""
    member: int | None = None
    """Which member reads it, of those that a `BatchedModel` holds; None for the model as it is."""


@dataclass(frozen=True)
class TeacherForced:
    """What a model makes of a continuation that is given to it token by token."""

    logprob: float
    """log p(continuation | context), summed over its tokens; NaN where the model overflows."""
    argmax: tuple[int, ...]
    """The likeliest token in the place of each: where they are the continuation's own, greedy
    decoding gives the continuation."""


def teacher_forced(
    model, continuations: list[Continuation], batches: Batches, logits: int = LOGITS
) -> list[TeacherForced]:
    """Return the log-probability and the argmax of each, worked out in float32.

    They go through the model in order of length, padded on the right: under causal attention no
    token sees the padding, so no mask is needed. No more than `logits` are held at once, unless
    one continuation alone has more.
    """
    most = logits // model.get_output_embeddings().weight.shape[0]

    def work(batch: Sequence[Continuation]) -> list[TeacherForced]:
        return [result for group in in_groups(batch, most) for result in _forced(model, group)]

    return batches.run(continuations, work, length=lambda continuation: len(continuation.tokens))


def in_groups(batch: Sequence[Item], most: int, small: int = 0) -> Iterator[list[Item]]:
    """Cut a batch, longest first, where it would have more than `most` targets, or much padding in
    more than `small` tokens, padding included.

    Items are Continuations or others with `tokens` and `targets`.
    """
    group, positions, read = [], 0, 0
    for item in batch:
        positions, read = positions + len(item.targets), read + len(item.tokens)
        padded = len(group[0].tokens) * (len(group) + 1) if group else read
        wasteful = padded > small and padded - read >= PADDING * padded
        if group and (positions > most or wasteful):
            yield group
            group, positions, read = [], len(item.targets), len(item.tokens)
        group.append(item)
    yield group


@torch.inference_mode()
def _forced(model, group: list[Continuation]) -> list[TeacherForced]:
    logprobs = vocabulary_logprobs(model, group)
    targets = [token for continuation in group for token in continuation.targets]
    wanted = torch.tensor(targets, device=model.device).unsqueeze(-1)
    lengths = [len(continuation.targets) for continuation in group]
    parts = logprobs.gather(-1, wanted).squeeze(-1).split(lengths)
    sums = torch.stack([part.sum() for part in parts]).tolist()
    tokens = iter(logprobs.argmax(dim=-1).tolist())
    return [
        TeacherForced(total, tuple(next(tokens) for _ in range(length)))
        for total, length in zip(sums, lengths, strict=True)
    ]


def vocabulary_logprobs(model, group: list[Continuation]) -> Tensor:
    """Return log p of the whole vocabulary for each target: float32, (targets, vocabulary)."""
    lengths = [(len(continuation.tokens), len(continuation.targets)) for continuation in group]
    width = max(whole for whole, _ in lengths)
    padded = [one.tokens + (0,) * (width - len(one.tokens)) for one in group]
    predicting = [
        (row, position)
        for row, (whole, count) in enumerate(lengths)
        for position in range(whole - count, whole)
    ]
    members = members_of(group)
    return torch.log_softmax(logits_at(model, padded, predicting, members), dim=-1)


def members_of(group: Sequence[Item]) -> list[int] | None:
    """Return the member of each row; None where the model reads them as it is."""
    return None if group[0].member is None else [item.member for item in group]


def logits_at(
    model,
    tokens: Sequence[tuple[int, ...]],
    places: Sequence[tuple[int, int]],
    members: list[int] | None,
    **inputs: Tensor,
) -> Tensor:
    """Return the logits at (row, position) `places` of `tokens`: float32, (places, vocabulary)."""
    rows, positions = torch.tensor(places, device=model.device).unbind(1)  # (places,) each
    ids = torch.tensor(tokens, device=model.device)  # (rows, width)
    if members is not None:
        inputs |= {"members": members, "predicting": rows}
    # Neither memory nor time goes to logits nobody looks at.
    with output_layer_sees(model, lambda hidden: hidden[rows, positions].unsqueeze(0)):
        return model(input_ids=ids, use_cache=False, **inputs).logits[0].float()


@contextmanager
def output_layer_sees(model, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Give the output layer `change(hidden)`, from (rows, width, hidden), inside the block."""
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: (change(args[0]), *args[1:])
    )
    try:
        yield
    finally:
        hook.remove()
