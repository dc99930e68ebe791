"""Greedy answers to prompts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from esft.rollout.batches import Batches

LEAVE = 1 / 8
"""Share of a batch that is done before the rest goes on without it: leaving copies the cache."""

Bend = Callable[[list[int], int, Tensor], Tensor]
"""Given the live rows as places among all prompts, how many tokens each has got, and the logits of
the next, float32 (live, vocabulary): returns what the argmax is taken of."""

_PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)


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
    prompts: list[tuple[int, ...]],
    max_new_tokens: int,
    batches: Batches,
    bend: Bend | None = None,
) -> list[Answer]:
    """Return the greedy answer to each prompt.

    No sampling, no repetition penalty; stops at the checkpoint's own stop tokens or after
    `max_new_tokens`. Prompts go in order of length, padded on the left; rows that are done leave
    their batch. Where `bend` is given, each token is the argmax of what it makes of the logits.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    config = _greedy(model, tokenizer, max_new_tokens)
    with _generation_config(model, config):
        found = batches.run(
            order,
            lambda batch: _Decoding(model, tokenizer, config, prompts, batch, bend).run(),
        )
    answers: list[Answer | None] = [None] * len(prompts)
    for i, answer in zip(order, found, strict=True):
        answers[i] = answer
    return answers


class _Decoding:
    """One batch of prompts, those at `places`, on its way to answers."""

    def __init__(
        self,
        model,
        tokenizer,
        config: GenerationConfig,
        prompts: list[tuple[int, ...]],
        places: list[int],
        bend: Bend | None,
    ) -> None:
        self._model, self._tokenizer, self._config = model, tokenizer, config
        self._prompts, self._bend = places, bend
        batch = [prompts[i] for i in places]
        self._stops = stop_tokens(model, tokenizer)
        self._width = max(len(prompt) for prompt in batch)
        pad = config.pad_token_id
        padded = [(pad,) * (self._width - len(prompt)) + prompt for prompt in batch]
        mask = [[0] * (self._width - len(prompt)) + [1] * len(prompt) for prompt in batch]
        self._tokens = torch.tensor(padded, device=model.device)  # (live, width)
        self._mask = torch.tensor(mask, device=model.device)  # (live, width)
        self._places = list(range(len(batch)))
        """Where each live row stands in the batch."""
        self._cache = None
        self._answers: list[Answer | None] = [None] * len(batch)

    @torch.inference_mode()
    def run(self) -> list[Answer]:
        """Return the answers, in the order of the batch."""
        finite = [True] * len(self._places)
        while self._places:
            left = self._config.max_new_tokens - (self._tokens.shape[1] - self._width)
            done, overflowed = self._go_on(left)
            for row, place in enumerate(self._places):
                finite[place] &= not overflowed[row]
                if done[row]:
                    made = self._made(row)
                    text = self._tokenizer.decode(made, skip_special_tokens=True)
                    self._answers[place] = Answer(text, finite[place], made)
            self._keep([row for row, over in enumerate(done) if not over])
        return self._answers

    def _go_on(self, left: int) -> tuple[list[bool], list[bool]]:
        """Decode up to `left` tokens more; return which rows are done and which had a NaN."""
        watch, leave = _NaNWatch(), _EnoughDone(self._stops, self._tokens.shape[1])
        processors = LogitsProcessorList([watch])
        if self._bend is not None:
            live = [self._prompts[place] for place in self._places]
            processors.append(_Bent(self._bend, live, self._width))
        config = copy(self._config)
        config.max_new_tokens = left
        config.return_dict_in_generate = True
        before = self._tokens.shape[1]
        output = self._model.generate(
            input_ids=self._tokens,
            attention_mask=self._mask,
            generation_config=config,
            past_key_values=self._cache,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([leave]),
        )
        self._tokens, self._cache = output.sequences, output.past_key_values
        made = self._tokens.shape[1] - before
        self._mask = torch.nn.functional.pad(self._mask, (0, made), value=1)
        done = leave.ended(self._tokens) if made < left else [True] * len(self._places)
        return done, watch.seen.tolist()

    def _keep(self, live: list[int]) -> None:
        """Go on with the rows at `live` alone."""
        self._places = [self._places[row] for row in live]
        if not live:
            return
        rows = torch.tensor(live, device=self._tokens.device)
        self._tokens, self._mask = self._tokens[rows], self._mask[rows]
        if _can_let_go(self._cache):
            self._cache.batch_select_indices(rows)
        else:  # built anew from the tokens of the rows that stay
            self._cache = None

    def _made(self, row: int) -> tuple[int, ...]:
        tokens = self._tokens[row, self._width :].tolist()
        ends = (i + 1 for i, token in enumerate(tokens) if token in self._stops)
        return tuple(tokens[: next(ends, len(tokens))])


def _can_let_go(cache) -> bool:
    """Return whether a cache holds keys and values alone, which can be taken row by row; layers
    with a state of another kind would keep it for rows that are gone."""
    layers = getattr(cache, "layers", None)
    return bool(layers) and all(type(layer) in _PLAIN for layer in layers)


class _EnoughDone(StoppingCriteria):
    """Stops a batch once LEAVE of its rows have met a stop token.

    Args:
        stops: the stop tokens.
        width: tokens before the first new one.
    """

    def __init__(self, stops: list[int], width: int) -> None:
        self._stops = stops
        self._width = width

    def ended(self, tokens: Tensor) -> list[bool]:
        """Return which rows of (rows, tokens) have met a stop token."""
        return self._ended(tokens).tolist()

    def _ended(self, tokens: Tensor) -> Tensor:
        stops = torch.tensor(self._stops, dtype=tokens.dtype, device=tokens.device)
        return torch.isin(tokens[:, self._width :], stops).any(dim=1)

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        ended = self._ended(input_ids)
        return (ended.sum() >= LEAVE * len(input_ids)).expand(len(input_ids))


class _NaNWatch(LogitsProcessor):
    """Notes the rows that had a NaN: argmax alone would pass over it in silence."""

    seen: Tensor | None = None  # (batch,) bool

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        nan = scores.isnan().any(dim=-1)
        self.seen = nan if self.seen is None else self.seen | nan
        return scores


class _Bent(LogitsProcessor):
    """Lets `bend` change the logits; `width` tokens are the prompt's."""

    def __init__(self, bend: Bend, live: list[int], width: int) -> None:
        self._bend, self._live, self._width = bend, live, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self._bend(self._live, input_ids.shape[1] - self._width, scores)


def stop_tokens(model, tokenizer) -> list[int]:
    """Return the tokens that end an answer: the checkpoint's own, else the tokenizer's."""
    stops = model.generation_config.eos_token_id
    if stops is None:
        stops = tokenizer.eos_token_id
    if stops is None:
        return []
    return list(stops) if isinstance(stops, (list, tuple)) else [stops]


def _greedy(model, tokenizer, max_new_tokens: int) -> GenerationConfig:
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=stop_tokens(model, tokenizer) or None,
        pad_token_id=0 if pad is None else pad,
    )


@contextmanager
def _generation_config(model, config: GenerationConfig) -> Iterator[None]:
    """Give the model `config` alone: `generate` fills gaps from the model's own settings, such
    as a repetition penalty."""
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before
