import math

import pytest
import torch
from scoring import choice_row
from tiny_models import tiny_llama, tiny_qwen2, tiny_tokenizer

from esft.rollout.batches import Batches
from esft.rollout.encode import encode_option
from esft.rollout.logprobs import Continuation, teacher_forced


def options_of(*numbers):
    rows = map(choice_row, numbers)
    return [encode_option(tiny_tokenizer(), option) for row in rows for option in row.options]


def logprobs(results):
    return [result.logprob for result in results]


def alone(model, option):
    """Log-probability and argmax from one plain forward over one sequence, in float64."""
    with torch.no_grad():
        every = model(torch.tensor([option.tokens])).logits[0].double().log_softmax(-1)
    every = every[-len(option.targets) :]
    total = sum(every[i, target].item() for i, target in enumerate(option.targets))
    return total, tuple(every.argmax(-1).tolist())


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2])
@pytest.mark.parametrize("size", [1, 4, 64])
def test_logprobs_and_argmax_are_those_of_each_option_alone(make, size):
    model, options = make(), options_of(1, 22, 333, 4444)

    found = teacher_forced(model, options, Batches(size))

    expected = [alone(model, option) for option in options]
    assert logprobs(found) == pytest.approx([total for total, _ in expected], abs=1e-4)
    assert [result.argmax for result in found] == [argmax for _, argmax in expected]


def test_the_probabilities_of_all_continuations_of_one_token_sum_to_one():
    model, whole = tiny_llama(), tuple(tiny_tokenizer()("abc")["input_ids"])
    every = [Continuation(whole, (token,)) for token in range(model.config.vocab_size)]

    found = logprobs(teacher_forced(model, every, Batches()))

    assert math.fsum(map(math.exp, found)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("positions", [1, 7, 20])
def test_no_more_logits_are_held_at_once_than_the_limit_says(positions):
    model, options = tiny_llama(), options_of(1, 22, 333)
    expected = logprobs(teacher_forced(model, options, Batches()))
    held = []
    model.get_output_embeddings().register_forward_hook(lambda *args: held.append(args[-1].shape))

    results = teacher_forced(model, options, Batches(), positions * model.config.vocab_size)

    longest = max(len(option.targets) for option in options)
    assert logprobs(results) == pytest.approx(expected, abs=1e-4)
    assert sum(shape[1] for shape in held) == sum(len(option.targets) for option in options)
    assert all(shape[0] == 1 and shape[1] <= max(positions, longest) for shape in held)
    assert len(held) > 1
