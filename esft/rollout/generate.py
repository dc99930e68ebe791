"""Answers token by token, up to a stop token: the likeliest one each, or one drawn."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from esft.engine.noise import random_bits
from esft.models.identity import stop_tokens
from esft.rollout.batches import Batches
from esft.rollout.logprobs import output_layer_sees

LEAVE = 1 / 8
"""Share of a batch that is done before the rest goes on without it: leaving copies the cache."""

_LARGEST = 1 - 2**-24  # the largest float32 below 1: beyond it log1p(-v) is infinite

Bend = Callable[[list[int], int, Tensor], Tensor]
"""Given which prompt each row is, how many tokens the rows have got, and the logits of the next,
float32 (rows, vocabulary): returns what the argmax is taken of."""


@dataclass(frozen=True)
class Answer:
    """What a model answered."""

    text: str
    """Without prompt and special tokens."""
    finite: bool
    """False where a logit was NaN: the weights or activations overflowed."""
    tokens: tuple[int, ...]
    """As they were made, with the stop token where one was met."""


def greedy_answers(
    model,
    tokenizer,
    prompts: Sequence[tuple[int, ...]],
    max_new_tokens: int,
    batches: Batches,
    bend: Bend | None = None,
    leave: float = LEAVE,
    on_batch: Callable[[Sequence[int], Sequence[Answer]], None] = lambda numbers, answers: None,
) -> list[Answer]:
    """Return the greedy answer to each prompt.

    No sampling and no penalty, whatever the checkpoint's generation_config asks for: of it only
    the stop tokens count. An answer ends with one of them or after `max_new_tokens`. Prompts go
    in order of length; rows that are done leave their batch once they are `leave` of it (above 1:
    none before all are).

    Args:
        prompts: as tokens, at least one each.
        max_new_tokens: at least 1.
        bend: changes the logits before the argmax; None takes them as they are.
        on_batch: called after each batch, with the numbers of its prompts and their answers.
    """
    stops = stop_tokens(model, tokenizer)

    def answer(numbers: Sequence[int]) -> list[Answer]:
        def bent(rows: list[int], count: int, logits: Tensor) -> Tensor:
            return bend([numbers[row] for row in rows], count, logits)

        decoding = _Decoding(model, [prompts[number] for number in numbers], leave)
        decoded = decoding.run(max_new_tokens, stops, None if bend is None else bent)
        return [
            Answer(tokenizer.decode(tokens, skip_special_tokens=True), finite, tokens)
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


class _Decoding:
    """One batch on its way to answers."""

    def __init__(self, model, prompts: list[tuple[int, ...]], leave: float) -> None:
        self._model, self._leave = model, leave
        self._width = max(len(prompt) for prompt in prompts)
        # Padded on the left, so that the last position of every row is the one that predicts.
        # The padding is masked: which token it is does not matter.
        gaps = [self._width - len(prompt) for prompt in prompts]
        padded = [(0,) * gap + prompt for gap, prompt in zip(gaps, prompts, strict=True)]
        mask = [[0] * gap + [1] * (self._width - gap) for gap in gaps]
        self._tokens = torch.tensor(padded, device=model.device)  # (rows, tokens so far)
        self._mask = torch.tensor(mask, device=model.device)  # (rows, tokens so far)
        self._is_padded = any(gaps)
        self._accepted = inspect.signature(model.forward).parameters
        # The cache is called past_key_values in early releases of transformers 5. The few models
        # that take none read all their tokens again for each new one.
        names = [name for name in ("cache", "past_key_values") if name in self._accepted]
        self._cache = {names[0]: DynamicCache(config=model.config)} if names else {}
        self._unread = 0
        """First token that the cache does not hold yet."""

    @torch.inference_mode()
    def run(
        self, cap: int, stops: list[int], bend: Bend | None
    ) -> list[tuple[tuple[int, ...], bool]]:
        """Return the new tokens of each row, and whether all logits they came from were finite."""
        count, device = len(self._tokens), self._tokens.device
        made = torch.zeros(count, cap, dtype=torch.long, device=device)
        finite = torch.ones(count, dtype=torch.bool, device=device)
        ends = torch.tensor(stops, dtype=torch.long, device=device)
        rows = torch.arange(count, device=device)  # (live,)
        done = torch.zeros(count, dtype=torch.bool, device=device)  # (live,)
        for step in range(cap):
            logits = self._next_logits()  # (live, vocabulary), float32
            # A row that is done and waits to leave says what nobody reads: a NaN there is none.
            finite[rows] &= done | ~logits.isnan().any(dim=-1)
            if bend is not None:
                logits = bend(rows.tolist(), step, logits)
            made[rows, step] = tokens = logits.argmax(dim=-1)
            done |= torch.isin(tokens, ends)
            self._tokens = torch.cat([self._tokens, tokens[:, None]], dim=1)
            self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
            over = int(done.sum())  # the one wait for the device in a step
            if over == len(done):
                break
            if over >= self._leave * len(done) and self._rows_can_leave():
                live = (~done).nonzero().squeeze(1)
                rows, done = rows[live], done[live]
                self._keep(live)
        answers = []
        for tokens, whole in zip(made.tolist(), finite.tolist(), strict=True):
            lengths = (i for i, token in enumerate(tokens, start=1) if token in stops)
            answers.append((tuple(tokens[: next(lengths, cap)]), whole))
        return answers

    def _next_logits(self) -> Tensor:
        positions = (self._mask.cumsum(dim=-1) - 1).clamp_(min=0)
        inputs = {
            "input_ids": self._tokens[:, self._unread :],
            # Without padding a mask would only keep attention off its fast path.
            "attention_mask": self._mask if self._is_padded else None,
            "position_ids": positions[:, self._unread :],
            "logits_to_keep": 1,
            "use_cache": bool(self._cache),
        }
        known = {name: value for name, value in inputs.items() if name in self._accepted}
        logits = self._model(**known, **self._cache).logits[:, -1].float()
        self._unread = self._tokens.shape[1] if self._cache else 0
        if self._cache and not any(isinstance(layer, DynamicLayer) for layer in self._layers()):
            self._is_padded = False  # a state alone (Mamba): padding is behind it, no key to mask
        return logits

    def _rows_can_leave(self) -> bool:
        """Return whether the cache holds keys and values alone, which can be taken row by row.

        Layers with a state of another kind (Mamba, linear attention) would keep it for rows that
        are gone: there all rows stay until the last is done.
        """
        plain = (DynamicLayer, DynamicSlidingWindowLayer)
        return all(type(layer) in plain for layer in self._layers())

    def _layers(self) -> list[object]:
        return [layer for cache in self._cache.values() for layer in cache.layers]

    def _keep(self, live: Tensor) -> None:
        """Go on with these rows alone."""
        self._tokens, self._mask = self._tokens[live], self._mask[live]
        self._is_padded = not bool(self._mask.all())
        for cache in self._cache.values():
            cache.batch_select_indices(live)
