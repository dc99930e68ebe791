"""What a model makes of some prompts: logits and greedy answers, to compare it by."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.engine.weights import identity
from esft.export.prompts import Prompt
from esft.models.load import LoadedModel
from esft.rollout.batches import Batches
from esft.rollout.generate import greedy_answers

NEW_TOKENS = 32
"""Of a greedy answer, at most."""
BATCH = 8
"""Prompts that are answered at a time: answers in half precision can depend on it."""
LOGITS = 2**24
"""Logits kept at most, but for the last position of each prompt: 67 MB in float32."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a model makes of some prompts."""

    weights: str
    """Identity of the model."""
    tokens: tuple[tuple[int, ...], ...]
    """The prompts as its tokenizer splits them, cut at the front where they are too long."""
    logits: Tensor
    """At the last positions of the prompts, (positions, vocabulary), float32 on the CPU."""
    answers: tuple[str, ...]
    """Greedy ones, of at most NEW_TOKENS tokens."""
    batch: int
    """Prompts that were answered at a time."""


def figures(loaded: LoadedModel, prompts: tuple[Prompt, ...], batch: int = BATCH) -> Figures:
    """Return what a model makes of prompts; prompts without a token are left out.

    Args:
        loaded: the model.
        prompts: at least one.
        batch: prompts that are answered at a time, halved where memory runs out.
    """
    model = loaded.model
    limit = getattr(model.config, "max_position_embeddings", None)
    most = None if limit is None else max(1, limit - NEW_TOKENS)
    tokens = [each.tokens(loaded.tokenizer) for each in prompts]
    tokens = [each if most is None else each[-most:] for each in tokens if each]
    keep = max(1, LOGITS // (len(tokens) * model.get_output_embeddings().weight.shape[0]))
    with _output_at_last(model, keep):
        logits = torch.cat([_logits(model, each) for each in tokens])
        answers, batch = _answers(loaded, tokens, batch)
    return Figures(
        weights=identity(model),
        tokens=tuple(tokens),
        logits=logits,
        answers=answers,
        batch=batch,
    )


@torch.inference_mode()
def _logits(model, tokens: tuple[int, ...]) -> Tensor:
    # One prompt at a time: nothing depends on padding, and memory is that of one prompt.
    batch = torch.tensor([tokens], device=model.device)
    return model(input_ids=batch, use_cache=False).logits[0].float().cpu()


def _answers(
    loaded: LoadedModel, tokens: list[tuple[int, ...]], batch: int
) -> tuple[tuple[str, ...], int]:
    """Return the answers and how many were made at a time, which is the same for all."""
    batches = Batches(batch)
    found = greedy_answers(loaded.model, loaded.tokenizer, tokens, NEW_TOKENS, batches)
    if batches.size != batch:  # memory ran out on the way: once more, all in the smaller batch
        return _answers(loaded, tokens, batches.size)
    return tuple(answer.text for answer in found), batch


@contextmanager
def _output_at_last(model, keep: int) -> Iterator[None]:
    """Let the output layer work out the last `keep` positions alone, inside the block."""
    layer = model.get_output_embeddings()
    # Contiguous, since for a slice a CPU copies the layer's whole matrix.
    hook = layer.register_forward_pre_hook(
        lambda _, args: (args[0][:, -keep:].contiguous(), *args[1:])
    )
    try:
        yield
    finally:
        hook.remove()
