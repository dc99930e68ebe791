"""Answers token by token, up to a stop token: the likeliest one each, or one drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from esft.engine.noise import random_bits
from esft.models.identity import stop_tokens
from esft.rollout.batches import Batches
from esft.rollout.decode import Bend, decode, shared_beginning
from esft.rollout.kvcache import Beginning
from esft.rollout.logprobs import output_layer_sees

_LARGEST = 1 - 2**-24  # the largest float32 below 1: beyond it log1p(-v) is infinite


@dataclass(frozen=True)
class Answer:
    """What a model answered."""

    text: str
    """Without prompt and special tokens."""
    finite: bool
    """False where a logit was NaN: the weights or activations overflowed."""
    tokens: tuple[int, ...]
    """As they were made, with the stop token where one was met."""
    cut: bool
    """Whether none was met before the cap."""
    share: float | None = None
    """Of an answer that was chosen from words: the probability of the first word among them."""


def greedy_answers(
    model,
    tokenizer,
    prompts: Sequence[tuple[int, ...]],
    max_new_tokens: int,
    batches: Batches,
    bend: Bend | None = None,
    on_batch: Callable[[Sequence[int], Sequence[Answer]], None] = lambda numbers, answers: None,
    skipping: bool = False,
    members: Sequence[int] | None = None,
) -> list[Answer]:
    """Return the greedy answer to each prompt.

    No sampling and no penalty, whatever the checkpoint's generation_config asks for: of it only
    the stop tokens count. An answer ends with one of them or after `max_new_tokens`. What all
    prompts begin with is read once; the weights may be others at the next call.

    Args:
        prompts: as tokens, at least one each.
        max_new_tokens: at least 1.
        bend: changes the logits before the argmax; None takes them as they are.
        on_batch: called after each batch, with the numbers of its prompts and their answers.
        skipping: try the memory alone, see `decode`.
        members: which member answers each prompt, of those that the model, a `BatchedModel`,
            holds; None has the model as it is answer all.
    """
    stops = stop_tokens(model, tokenizer)

    @cache
    def beginning() -> Beginning | None:  # in a batch, which may run out of memory
        return shared_beginning(model, prompts, members)

    def answer(numbers: Sequence[int]) -> list[Answer]:
        def bent(rows: list[int], count: int, logits: Tensor) -> Tensor:
            return bend([numbers[row] for row in rows], count, logits)

        decoded = decode(
            model,
            [prompts[number] for number in numbers],
            max_new_tokens,
            stops,
            None if bend is None else bent,
            beginning(),
            skipping,
            None if members is None else [members[number] for number in numbers],
        )
        return [
            Answer(
                tokenizer.decode(tokens, skip_special_tokens=True),
                finite,
                tokens,
                tokens[-1] not in stops,
            )
            for tokens, finite in decoded
        ]

    # Models slice out the positions whose logits are wanted; given such a slice, a CPU copies the
    # layer's whole matrix once for every sequence (measured on SmolLM2-135M, 64 sequences: five
    # times the time, and 3.5 GB).
    with output_layer_sees(model, Tensor.contiguous):
        numbers = range(len(prompts))
        return batches.run(numbers, answer, lambda number: len(prompts[number]), on_batch)


def sampled(
    model,
    tokenizer,
    prompts: list[tuple[int, ...]],
    max_new_tokens: int,
    batches: Batches,
    seed: int,
) -> list[tuple[int, ...]]:
    """Return a continuation of each prompt, drawn at temperature 1 from all of the vocabulary.

    The argmax of logits plus independent Gumbel noise is an exact draw from their softmax. The
    noise is a pure function of seed, prompt (its place in the list), position and token, so that
    the same call gives the same continuations and a prompt's do not depend on which others share
    its batch, as far as its logits do not: in float32 those of two batch sizes agree but for
    their rounding.

    Args:
        prompts: as tokens, at least one each; equal prompts get draws of their own.
        seed: any integer.

    Returns:
        The new tokens, at least one each; the last is a stop token where one was drawn.
    """

    bend = drawn([(seed, prompt) for prompt in range(len(prompts))])
    answers = greedy_answers(model, tokenizer, prompts, max_new_tokens, batches, bend=bend)
    return [answer.tokens for answer in answers]


def drawn(draws: Sequence[tuple[int, int]], temperature: float = 1.0) -> Bend:
    """Return what makes `greedy_answers` draw tokens as `sampled` does, at any temperature > 0.

    Args:
        draws: of each prompt a seed and a number, which tell its noise from that of others.
    """

    def with_noise(prompts: list[int], position: int, logits: Tensor) -> Tensor:
        count, device = logits.shape[1], logits.device
        rows = [gumbel(*draws[prompt], position, count, device) for prompt in prompts]
        # The argmax of logits / temperature + noise, with the bits of plain noise at 1.
        return logits + temperature * torch.stack(rows)  # (prompts, vocabulary)

    return with_noise


def gumbel(
    seed: int, prompt: int, position: int, count: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the Gumbel noise of tokens 0 to `count` at a position: float32, -2.9 to 22.9."""
    bits = random_bits("sampling", seed, f"{prompt}:{position}", 0, count, device)
    uniform = (bits.to(torch.int64) & 0xFFFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-32)
    # What decides a draw is the upper end, where the exponential is close to 0: log1p of small
    # numbers keeps all 32 bits there, while a log of numbers close to 1 has 24.
    exponential = uniform.clamp_(max=_LARGEST).neg_().log1p_().neg_()
    return exponential.log_().neg_()
