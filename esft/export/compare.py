"""What a conversion to another dtype changes: logits and greedy answers of some prompts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.models.load import LoadedModel
from esft.rollout.batches import Batches
from esft.rollout.generate import greedy_answers

NEW_TOKENS = 32
"""Of a greedy answer, at most."""
_BATCH = 8  # prompts answered at a time: answers in half precision can depend on it
_LOGITS = 2**24  # kept at most, but for the last position of each prompt: 67 MB in float32


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """What a model makes of some prompts."""

    logits: Tensor
    """At the last positions of the prompts, (positions, vocabulary), float32 on the CPU."""
    answers: tuple[str, ...]
    """Greedy ones, of at most NEW_TOKENS tokens."""
    batch: int
    """Prompts that were answered at a time."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted model against the one it was converted from."""

    positions: int
    """Positions of the prompts whose logits were compared."""
    logits: int
    largest_difference: float
    """Of a logit."""
    mean_kl: float
    """KL(tuned || exported) in nats, mean over the positions."""
    same_answers: int


def output_of(
    loaded: LoadedModel, tokens: Sequence[tuple[int, ...]], batch: int = _BATCH
) -> ModelOutput:
    """Return what a model makes of prompts.

    Args:
        loaded: the model.
        tokens: of at least one prompt; what is too long for the model's context with an answer
            is cut at the front.
        batch: prompts that are answered at a time, halved where memory runs out.
    """
    model = loaded.model
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None:
        tokens = [prompt[-max(1, limit - NEW_TOKENS) :] for prompt in tokens]
    keep = max(1, _LOGITS // (len(tokens) * model.get_output_embeddings().weight.shape[0]))
    with _output_at_last(model, keep):
        logits = torch.cat([_logits(model, prompt) for prompt in tokens])
        batches = Batches(batch)
        answers = greedy_answers(model, loaded.tokenizer, tokens, NEW_TOKENS, batches)
    if batches.size != batch:  # memory ran out on the way: once more, all in the smaller batch
        return output_of(loaded, tokens, batches.size)
    return ModelOutput(logits=logits, answers=tuple(answer.text for answer in answers), batch=batch)


def compare(tuned: ModelOutput, exported: ModelOutput) -> Conversion:
    """Compare what two models make of the same prompts.

    In float64 and a few positions at a time: a vocabulary can have 150,000 tokens.
    """
    largest, total = 0.0, 0.0
    for ours, theirs in zip(tuned.logits.split(16), exported.logits.split(16), strict=True):
        ours, theirs = ours.double(), theirs.double()
        largest = max(largest, float((ours - theirs).abs().max()))
        p, q = ours.log_softmax(dim=-1), theirs.log_softmax(dim=-1)
        total += float((p.exp() * (p - q)).sum())
    answers = zip(tuned.answers, exported.answers, strict=True)
    return Conversion(
        positions=len(tuned.logits),
        logits=tuned.logits.numel(),
        largest_difference=largest,
        mean_kl=total / len(tuned.logits),
        same_answers=sum(one == other for one, other in answers),
    )


@torch.inference_mode()
def _logits(model, tokens: tuple[int, ...]) -> Tensor:
    # One prompt at a time: nothing depends on padding, and memory is that of one prompt.
    batch = torch.tensor([tokens], device=model.device)
    return model(input_ids=batch, use_cache=False).logits[0].float().cpu()


@contextmanager
def _output_at_last(model, keep: int) -> Iterator[None]:
    """Let the output layer work out the last `keep` positions alone, inside the block."""
    # Contiguous, since for a slice a CPU copies the layer's whole matrix.
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: (args[0][:, -keep:].contiguous(), *args[1:])
    )
    try:
        yield
    finally:
        hook.remove()
