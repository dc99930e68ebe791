import math

import pytest
import torch
from scoring import choice_row
from tiny_models import tiny_llama, tiny_qwen2, tiny_tokenizer

from esft.batches import Batches
from esft.choice import encode_option, option_logprobs
from esft.errors import TaskError
from esft.tasks.task import Option


def options_of(tokenizer, rows):
    return [encode_option(tokenizer, option) for row in rows for option in row.options]


def alone(model, option):
    """log p of a continuation from one plain forward over one sequence, in float64."""
    tokens = torch.tensor([option.tokens + option.targets[-1:]])
    with torch.no_grad():
        logprobs = model(tokens).logits[0].double().log_softmax(-1)
    first = len(option.tokens) - len(option.targets)
    return sum(logprobs[first + i, target].item() for i, target in enumerate(option.targets))


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2])
@pytest.mark.parametrize("size", [1, 4, 64])
def test_logprobs_are_those_of_each_option_alone(make, size):
    model = make()
    options = options_of(tiny_tokenizer(), [choice_row(number) for number in (1, 22, 333, 4444)])

    found = option_logprobs(model, options, Batches(size))

    assert found == pytest.approx([alone(model, option) for option in options], abs=1e-4)


def test_the_probabilities_of_all_continuations_of_one_token_sum_to_one():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    whole = tuple(tokenizer("abc")["input_ids"])
    options = [
        encode_option(tokenizer, Option(context="abc", continuation="x", text="x")),
    ]
    every = [type(options[0])(whole, (token,)) for token in range(model.config.vocab_size)]

    found = option_logprobs(model, every, Batches())

    assert math.fsum(math.exp(logprob) for logprob in found) == pytest.approx(1, abs=1e-5)


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation():
    tokenizer = tiny_tokenizer()

    spaced = encode_option(tokenizer, Option(context="a b ", continuation="c", text="c"))

    assert spaced == encode_option(tokenizer, Option(context="a b", continuation=" c", text="c"))


def test_context_and_continuation_are_tokenized_together():
    tokenizer = tiny_tokenizer()  # it has one token for "ab"

    option = encode_option(tokenizer, Option(context="xa", continuation="b c", text="b c"))

    # "xa" has two tokens, "xab c" four: the continuation is what lies after the first two.
    assert option.targets == tuple(tokenizer("xab c")["input_ids"][2:])


def test_an_option_without_tokens_of_its_own_is_refused():
    with pytest.raises(TaskError, match="expected at least one each"):
        encode_option(tiny_tokenizer(), Option(context="abc", continuation="", text=""))


def test_a_model_that_overflows_gives_nan():
    model = tiny_llama()
    model.model.norm.weight.fill_(float("inf"))
    options = options_of(tiny_tokenizer(), [choice_row(1)])

    assert all(math.isnan(logprob) for logprob in option_logprobs(model, options, Batches()))
