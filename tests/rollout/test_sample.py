"""Continuations are exact draws from the model, the same ones every time."""

import math

import pytest
import torch
from tiny_models import tiny_llama, tiny_tokenizer

from esft.rollout import generate as module
from esft.rollout.batches import Batches
from esft.rollout.generate import gumbel, sampled

PROMPTS = [(40 + i,) * (1 + i % 5) for i in range(20)]


def drawn(model, prompts=PROMPTS, count=12, size=64, seed=0):
    return sampled(model, tiny_tokenizer(), prompts, count, Batches(size), seed)


def next_laws(model, contexts):
    """The distribution of the next token after each of some contexts of one length, float64."""
    with torch.no_grad():
        return model(torch.tensor(contexts)).logits[:, -1].double().softmax(-1)


def chi_square(counts, expected):
    """The chi-square statistic in standard deviations from its mean, rare tokens together."""
    often = expected >= 5
    counts = torch.cat([counts[often], counts[~often].sum().view(1)])
    expected = torch.cat([expected[often], expected[~often].sum().view(1)])
    freedom = len(counts) - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_the_first_and_the_second_token_are_drawn_as_often_as_the_model_says(seed):
    # Larger weights than usual: a law that is far from uniform.
    model, prompt, number = tiny_llama(initializer_range=0.6), (50, 60), 2000
    first = next_laws(model, [prompt])[0]
    every = range(len(first))
    second = first @ next_laws(model, [(*prompt, token) for token in every])
    model.generation_config.eos_token_id = [len(first)]  # none that could be drawn

    found = torch.tensor(drawn(model, [prompt] * number, count=2, size=1000, seed=seed))

    for place, law in enumerate([first, second]):
        counts = torch.bincount(found[:, place], minlength=len(law)).double()
        assert abs(chi_square(counts, number * law)) < 5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_temperature_divides_the_logits(temperature):
    model, prompt, number = tiny_llama(initializer_range=0.6), (50, 60), 2000
    bend = module.drawn([(7, draw) for draw in range(number)], temperature)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[:, -1].float()

    found = bend(range(number), 0, logits.expand(number, -1)).argmax(dim=-1)

    law = (logits[0].double() / temperature).softmax(-1)
    counts = torch.bincount(found, minlength=len(law)).double()
    assert abs(chi_square(counts, number * law)) < 5


def test_the_same_call_draws_the_same_tokens_and_another_seed_others():
    model = tiny_llama()

    assert drawn(model) == drawn(model)
    assert drawn(model, seed=1) != drawn(model, seed=0)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_draws_do_not_depend_on_the_batch_nor_on_rows_that_leave_it(size):
    model = tiny_llama()
    model.generation_config.eos_token_id = list(range(100, 130))

    found = drawn(model, size=size)

    alone = [
        drawn(model, [(1,)] * i + [prompt], size=1)[-1] for i, prompt in enumerate(PROMPTS[:4])
    ]
    assert found[:4] == alone
    assert found == drawn(model, size=20)
    assert len({len(each) for each in found}) > 3


def test_equal_prompts_get_draws_of_their_own():
    found = drawn(tiny_llama(), [PROMPTS[0]] * 10)

    assert len(set(found)) == 10


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_noise_follows_the_gumbel_law(seed):
    values = gumbel(seed, 3, 7, 200_000).double().sort().values

    law = (-(-values).exp()).exp()
    number = len(values)
    steps = torch.arange(1, number + 1, dtype=torch.float64) / number
    distance = float(torch.maximum((law - steps).abs(), (law - steps + 1 / number).abs()).max())
    assert distance < 1.95 / math.sqrt(number)  # Kolmogorov, 1 in 1,000


def test_noise_of_other_seeds_prompts_and_positions_is_not_related():
    streams = [gumbel(*place, 50_000) for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]

    related = torch.corrcoef(torch.stack(streams)) - torch.eye(4)

    assert float(related.abs().max()) < 5 / math.sqrt(50_000)


def test_noise_is_finite_for_all_bits(monkeypatch):
    bits = torch.tensor([0, 1, -1, -2, 2**31 - 1, -(2**31)], dtype=torch.int32)
    monkeypatch.setattr(module, "random_bits", lambda *_: bits.clone())

    values = gumbel(0, 0, 0, 6)

    assert values.tolist() == pytest.approx([22.87, 21.78, -2.81, -2.81, 0.3665, 0.3665], abs=0.01)
