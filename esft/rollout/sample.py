"""Continuations drawn from a model's own distribution."""

import torch
from torch import Tensor

from esft.engine.noise import random_bits
from esft.rollout.batches import Batches
from esft.rollout.generate import greedy_answers

# The largest float32 below 1: beyond it log1p(-v) is infinite.
_LARGEST = 1 - 2**-24


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

    def with_noise(prompts: list[int], position: int, logits: Tensor) -> Tensor:
        count, device = logits.shape[1], logits.device
        rows = [gumbel(seed, prompt, position, count, device) for prompt in prompts]
        return logits + torch.stack(rows)  # (prompts, vocabulary)

    answers = greedy_answers(model, tokenizer, prompts, max_new_tokens, batches, bend=with_noise)
    return [answer.tokens for answer in answers]


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
