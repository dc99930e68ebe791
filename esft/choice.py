"""Log-probabilities of options, as lm-evaluation-harness scores them."""

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.batches import Batches
from esft.errors import TaskError
from esft.tasks.task import Option


@dataclass(frozen=True)
class EncodedOption:
    """Tokens of a context and its continuation."""

    tokens: tuple[int, ...]
    """Context and continuation, without the last token, which predicts nothing."""
    targets: tuple[int, ...]
    """The continuation's tokens; the last len(targets) positions of `tokens` predict them."""


def encode_option(tokenizer, option: Option) -> EncodedOption:
    """Return the tokens of an option.

    Context and continuation are tokenized together and split after the context's own tokens;
    spaces at the context's end go to the continuation; special tokens as the tokenizer adds them.

    Raises:
        TaskError: if the context has no token or the continuation adds none.
    """
    context = option.context.rstrip()
    whole = tokenizer(option.context + option.continuation)["input_ids"]
    split = len(tokenizer(context)["input_ids"])
    if split == 0 or split >= len(whole):
        raise TaskError(
            f"context {option.context[-40:]!r} with option {option.continuation[:40]!r} has "
            f"{split} and {len(whole) - split} tokens, expected at least one each"
        )
    return EncodedOption(tuple(whole[:-1]), tuple(whole[split:]))


def option_logprobs(model, options: list[EncodedOption], batches: Batches) -> list[float]:
    """Return log p(continuation | context) of each option, summed over its tokens in float32.

    Options go through the model in order of length, padded on the right: under causal
    attention no token sees the padding, so no mask is needed. NaN where the model overflows.
    """
    order = sorted(range(len(options)), key=lambda i: len(options[i].tokens), reverse=True)
    scored = batches.run([options[i] for i in order], lambda batch: _score(model, batch))
    logprobs = [0.0] * len(options)
    for i, value in zip(order, scored, strict=True):
        logprobs[i] = value
    return logprobs


@torch.inference_mode()
def _score(model, batch: list[EncodedOption]) -> list[float]:
    width = max(len(option.tokens) for option in batch)
    padded = [option.tokens + (0,) * (width - len(option.tokens)) for option in batch]
    tokens = torch.tensor(padded, device=model.device)  # (batch, width)
    first = min(len(option.tokens) - len(option.targets) for option in batch)
    logits = _last_logits(model, tokens, width - first)  # (batch, width - first, vocabulary)
    sums = [
        _logprob(row[len(option.tokens) - len(option.targets) - first :], option.targets)
        for row, option in zip(logits, batch, strict=True)
    ]
    return torch.stack(sums).tolist()


def _logprob(logits: Tensor, targets: tuple[int, ...]) -> Tensor:
    wanted = torch.tensor(targets, device=logits.device)
    logprobs = torch.log_softmax(logits[: len(targets)].float(), dim=-1)
    return logprobs.gather(-1, wanted.unsqueeze(-1)).sum()


def _last_logits(model, tokens: Tensor, count: int) -> Tensor:
    """Return the logits of the last `count` positions, sparing the others' where it can."""
    spares = "logits_to_keep" in inspect.signature(model.forward).parameters
    keep = {"logits_to_keep": count} if spares else {}
    return model(input_ids=tokens, use_cache=False, **keep).logits[:, -count:]
