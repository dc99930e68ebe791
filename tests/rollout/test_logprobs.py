import math

import pytest
import torch
from scoring import choice_row
from tiny_models import tiny_llama, tiny_qwen2, tiny_tokenizer

from esft.rollout.batches import Batches
from esft.rollout.encode import encode_option
from esft.rollout.logprobs import logprobs, teacher_forced
from esft.tasks.task import Option


def options_of(tokenizer, rows):
    return [encode_option(tokenizer, option) for row in rows for option in row.options]


def alone(model, option):
    """log p of a continuation from one plain forward over one sequence, in float64."""
    tokens = torch.tensor([option.tokens + option.targets[-1:]])
    with torch.no_grad():
        every = model(tokens).logits[0].double().log_softmax(-1)
    first = len(option.tokens) - len(option.targets)
    return sum(every[first + i, target].item() for i, target in enumerate(option.targets))


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2])
@pytest.mark.parametrize("size", [1, 4, 64])
def test_logprobs_are_those_of_each_option_alone(make, size):
    model = make()
    options = options_of(tiny_tokenizer(), [choice_row(number) for number in (1, 22, 333, 4444)])

    found = logprobs(model, options, Batches(size))

    assert found == pytest.approx([alone(model, option) for option in options], abs=1e-4)


def test_the_probabilities_of_all_continuations_of_one_token_sum_to_one():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    whole = tuple(tokenizer("abc")["input_ids"])
    options = [
        encode_option(tokenizer, Option(context="abc", continuation="x", text="x")),
    ]
    every = [type(options[0])(whole, (token,)) for token in range(model.config.vocab_size)]

    found = logprobs(model, every, Batches())

    assert math.fsum(math.exp(logprob) for logprob in found) == pytest.approx(1, abs=1e-5)


def test_a_model_that_overflows_gives_nan():
    model = tiny_llama()
    model.model.norm.weight.fill_(float("inf"))
    options = options_of(tiny_tokenizer(), [choice_row(1)])

    assert all(math.isnan(value) for value in logprobs(model, options, Batches()))


@pytest.mark.parametrize("positions", [1, 7, 20])
def test_no_more_logits_are_held_at_once_than_the_limit_says(positions):
    model = tiny_llama()
    options = options_of(tiny_tokenizer(), [choice_row(number) for number in (1, 22, 333)])
    expected = logprobs(model, options, Batches())
    held = []
    model.get_output_embeddings().register_forward_hook(lambda *args: held.append(args[-1].shape))

    results = teacher_forced(model, options, Batches(), positions * model.config.vocab_size)

    longest = max(len(option.targets) for option in options)
    assert [result.logprob for result in results] == pytest.approx(expected, abs=1e-4)
    assert sum(shape[1] for shape in held) == sum(len(option.targets) for option in options)
    assert all(shape[0] == 1 and shape[1] <= max(positions, longest) for shape in held)
    assert len(held) > 1


def test_the_argmax_is_that_of_each_continuation_alone():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    options = options_of(tokenizer, [choice_row(number) for number in (1, 22, 333)])

    found = teacher_forced(model, options, Batches())

    for option, result in zip(options, found, strict=True):
        with torch.no_grad():
            said = model(torch.tensor([option.tokens])).logits[0].argmax(-1).tolist()
        assert result.argmax == tuple(said[-len(option.targets) :])
