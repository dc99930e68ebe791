import random

import pytest
import torch
from tiny_models import SIZES, tiny_llama, tiny_qwen2
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from esft.rollout.batches import Batches
from esft.rollout.logprobs import PADDING, Continuation, teacher_forced
from esft.rollout.options import option_logprobs, tree_span

WINDOW = 20


def a_gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=261, n_embd=32, n_layer=2, n_head=4))


def a_gpt_neox():
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES))


def a_gemma3():
    """Every other layer sees a window alone."""
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=WINDOW, layer_types=kinds)
    return Gemma3ForCausalLM(config)


def a_mamba():
    return MambaForCausalLM(MambaConfig(vocab_size=261, hidden_size=32, num_hidden_layers=2))


TREES = [tiny_llama, tiny_qwen2, a_gpt2, a_gpt_neox, a_gemma3]


def made(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval().requires_grad_(False)


def random_rows(seed, count=12, share=30):
    """Rows of 1 to 5 options; contexts of a row have up to `share` tokens in common."""
    draw = random.Random(seed)

    def tokens(most):
        return tuple(draw.choices(range(100, 103), k=draw.randint(1, most)))

    rows = []
    for _ in range(count):
        common, own = tokens(share), draw.random() < 0.3
        options = []
        for _ in range(draw.randint(1, 5)):
            context, target = common + (tokens(8) if own else ()), tokens(9)
            options.append(Continuation((context + target)[:-1], target))
        rows.append(options)
    return rows


def one_by_one(model, rows, size=64):
    found = iter(teacher_forced(model, [one for row in rows for one in row], Batches(size)))
    return [next(found).logprob for row in rows for _ in row]


def flat(found):
    return [logprob for row in found for logprob in row]


@pytest.mark.parametrize("make", [*TREES, a_mamba])
@pytest.mark.parametrize("seed", range(4))
def test_options_behind_what_they_share_score_as_one_by_one(make, seed):
    model, rows = made(make, seed), random_rows(seed)

    found = option_logprobs(model, rows, Batches(), tree_span(model))

    assert [len(row) for row in found] == [len(row) for row in rows]
    assert flat(found) == pytest.approx(one_by_one(model, rows), abs=1e-4)


@pytest.mark.parametrize("size", [1, 5])
def test_in_float32_scores_do_not_depend_on_which_rows_share_a_batch(size):
    model, rows = tiny_llama(), random_rows(9)
    expected = flat(option_logprobs(model, rows, Batches(), tree_span(model)))

    found = option_logprobs(model, rows, Batches(size), tree_span(model))

    assert flat(found) == pytest.approx(expected, abs=1e-4)


def tokens_read(model, rows):
    """How many tokens go through the model for rows without token 0, and how many are padding."""
    span, inputs = tree_span(model), []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: inputs.append(kwargs["input_ids"]), with_kwargs=True
    )
    option_logprobs(model, rows, Batches(), span)
    hook.remove()
    padding = sum(int((one == 0).sum()) for one in inputs)
    return sum(one.numel() for one in inputs) - padding, padding


@pytest.mark.parametrize("make", TREES)
def test_what_options_share_goes_through_the_model_once(make):
    rows = [
        [Continuation((*range(50, 56 + i), 7 + k, *[9] * k), (7 + k, *[9] * k)) for k in range(3)]
        for i in range(10)
    ]

    read, padding = tokens_read(made(make), rows)

    assert read == sum(6 + i + 1 + 2 + 3 for i in range(10))
    assert 0 < padding < PADDING * (read + padding)


def test_options_that_share_too_little_are_taken_one_by_one():
    rows = [[Continuation((50, *[token] * 9), (token,)) for token in (7, 8, 9)]]

    assert tokens_read(tiny_llama(), rows) == (30, 0)


def a_lfm2(kind):
    return Lfm2ForCausalLM(Lfm2Config(**SIZES, layer_types=["full_attention", kind]))


def test_a_model_with_a_state_takes_options_one_by_one():
    hybrid = made(lambda: a_lfm2("conv"))
    for layer in hybrid.model.layers[1:]:
        layer.conv.out_proj.weight.zero_()  # no token hears of another by it: not yet, that is

    assert tree_span(made(lambda: a_lfm2("full_attention"))) > 0
    assert tree_span(hybrid) == 0
    assert tree_span(made(a_mamba)) == 0


def test_options_longer_than_a_sliding_window_are_taken_one_by_one():
    model, common = made(a_gemma3), tuple(range(100, 100 + WINDOW))
    rows = [[Continuation((*common, token, token), (token, token)) for token in (7, 8, 9)]]

    found = option_logprobs(model, rows, Batches(), tree_span(model))

    assert tree_span(model) == WINDOW
    assert flat(found) == pytest.approx(one_by_one(model, rows), abs=1e-5)
    assert flat(option_logprobs(model, rows, Batches(), len(common) * 2)) != pytest.approx(
        flat(found), abs=1e-3
    )


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
def test_a_model_that_does_not_obey_mask_or_positions_takes_options_one_by_one(ignored):
    class Deaf(LlamaForCausalLM):
        def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, **others):
            obeyed = {"attention_mask": attention_mask, "position_ids": position_ids}
            return super().forward(input_ids, **obeyed | {ignored: None}, **others)

    model = tiny_llama()
    assert tree_span(model) > 0
    model.__class__ = Deaf

    assert tree_span(model) == 0


def test_options_of_the_same_tokens_but_the_last_need_no_tree_of_the_model():
    model = made(a_mamba)
    row = [Continuation((100, 101, 102), (token,)) for token in range(5)]
    widths = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )

    found = option_logprobs(model, [row], Batches(), 0)

    assert widths == [(1, 3)]
    assert flat(found) == pytest.approx(one_by_one(model, [row]), abs=1e-5)


@pytest.mark.parametrize("positions", [1, 12])
def test_no_more_logits_are_held_at_once_than_the_limit_says(positions):
    model, rows = tiny_llama(), random_rows(5)
    expected = flat(option_logprobs(model, rows, Batches(), tree_span(model)))
    held, span = [], tree_span(model)
    model.get_output_embeddings().register_forward_hook(
        lambda *args: held.append(args[-1].shape[1])
    )

    found = option_logprobs(model, rows, Batches(), span, positions * model.config.vocab_size)

    most = max(sum(len(option.targets) for option in row) for row in rows)
    assert flat(found) == pytest.approx(expected, abs=1e-4)
    assert max(held) <= max(positions, most)
    assert len(held) > 3
