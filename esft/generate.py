"""Greedy answers to prompts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from esft.batches import Batches
from esft.tasks.task import Row


@dataclass(frozen=True)
class Answer:
    """What a model answered."""

    text: str
    """Without prompt and special tokens."""
    finite: bool
    """False where a logit was NaN: the weights or activations overflowed."""


def encode_prompt(tokenizer, row: Row) -> tuple[int, ...]:
    """Return the tokens of a row's prompt: chat template where there is one, else plain text.

    A chat template writes its own special tokens, so no second BOS is added.
    """
    if tokenizer.chat_template is None:
        return tuple(tokenizer(row.prompt)["input_ids"])
    text = tokenizer.apply_chat_template(
        list(row.messages), tokenize=False, add_generation_prompt=True
    )
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def greedy_answers(
    model, tokenizer, prompts: list[tuple[int, ...]], max_new_tokens: int, batches: Batches
) -> list[Answer]:
    """Return the greedy answer to each prompt.

    No sampling, no repetition penalty; stops at the checkpoint's own stop tokens or after
    `max_new_tokens`. Prompts go in order of length, padded on the left.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    config = _greedy(model, tokenizer, max_new_tokens)
    with _generation_config(model, config):
        found = batches.run(
            [prompts[i] for i in order], lambda batch: _generate(model, tokenizer, batch)
        )
    answers: list[Answer | None] = [None] * len(prompts)
    for i, answer in zip(order, found, strict=True):
        answers[i] = answer
    return answers


@torch.inference_mode()
def _generate(model, tokenizer, batch: list[tuple[int, ...]]) -> list[Answer]:
    width = max(len(prompt) for prompt in batch)
    pad = model.generation_config.pad_token_id
    padded = [(pad,) * (width - len(prompt)) + prompt for prompt in batch]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch]
    watch = _NaNWatch()
    tokens = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        logits_processor=LogitsProcessorList([watch]),
    )[:, width:].tolist()  # (batch, new tokens)
    overflowed = watch.seen.tolist()
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [Answer(text, not nan) for text, nan in zip(texts, overflowed, strict=True)]


class _NaNWatch(LogitsProcessor):
    """Notes the rows that had a NaN: argmax alone would pass over it in silence."""

    seen: Tensor | None = None  # (batch,) bool

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        nan = scores.isnan().any(dim=-1)
        self.seen = nan if self.seen is None else self.seen | nan
        return scores


def _greedy(model, tokenizer, max_new_tokens: int) -> GenerationConfig:
    stops = model.generation_config.eos_token_id
    if stops is None:
        stops = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops,
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
