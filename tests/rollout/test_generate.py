"""Answers are those of transformers' own greedy `generate`, to the token."""

import warnings

import pytest
import torch
import transformers
from scoring import question_row
from tiny_models import SIZES, tiny_llama, tiny_qwen2, tiny_tokenizer

from esft.rollout.batches import Batches
from esft.rollout.encode import encode_prompt
from esft.rollout.generate import greedy_answers

PROMPTS = [tuple(range(50 + i, 53 + i + i * 7 % 17)) for i in range(13)]
STOPS = list(range(60, 160))
SHARED = tuple(range(100, 130))
LONG = [SHARED + tuple(range(50 + i, 53 + i + i * i)) for i in range(13)]
"""Prompts of 33 to 177 tokens with a beginning that pays to be read once."""


def tiny(name, **changes):
    """A model of another architecture."""
    config = getattr(transformers, f"{name}Config")(**SIZES | changes)
    kind = getattr(transformers, f"{name}ForCausalLM", None) or getattr(
        transformers, f"{name}LMHeadModel"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(config).eval().requires_grad_(False)


ARCHITECTURES = {
    "llama": tiny_llama,
    "qwen2": tiny_qwen2,
    "sliding window": lambda: tiny("Mistral", sliding_window=8, head_dim=8),
    "every other layer sliding": lambda: tiny("Gemma2", sliding_window=8, head_dim=8),
    "learned positions": lambda: tiny("GPT2", n_embd=32, n_layer=2, n_head=4),
    "no positions": lambda: tiny("Bloom", n_layer=2, n_head=4),
    "convolution and attention": lambda: tiny(
        "Lfm2", layer_types=["conv", "full_attention"], full_attn_idxs=[1]
    ),
    "a state alone": lambda: tiny("Mamba", state_size=4),
    "no cache": lambda: tiny("OpenAIGPT", n_embd=32, n_layer=2, n_head=4),
}


def generated(model, prompt, count, stops=()):
    """The new tokens of one prompt by `generate`, up to a stop token."""
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        generation_config=transformers.GenerationConfig(
            do_sample=False, max_new_tokens=count, eos_token_id=list(stops) or None, pad_token_id=3
        ),
    )
    return tuple(output[0, len(prompt) :].tolist())


def answers_of(model, prompts=PROMPTS, count=20, size=64, **options):
    return greedy_answers(model, tiny_tokenizer(), prompts, count, Batches(size), **options)


def test_no_library_warns_while_answers_are_made(caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # transformers once had a FutureWarning a run
        answers = answers_of(tiny_llama())

    assert len(answers) == len(PROMPTS)
    assert caplog.records == []


def shapes_of_each_forward(model):
    seen = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("prompts", [PROMPTS, LONG], ids=["short", "long"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_are_those_of_generate_to_the_token(name, prompts):
    model = ARCHITECTURES[name]()
    alone = [generated(model, prompt, 20) for prompt in prompts[::4]]
    # Tokens of some answers end an answer, so that rows end early, late and never.
    model.generation_config.eos_token_id = stops = sorted({t for each in alone for t in each})
    expected = [generated(model, prompt, 20, stops) for prompt in prompts]

    for size in (1, 4, 64):
        answers = answers_of(model, prompts, size=size)

        assert [answer.tokens for answer in answers] == expected
        assert all(answer.finite for answer in answers)


def test_settings_of_the_checkpoint_do_not_bend_greedy_answers():
    model = tiny_llama()
    plain = answers_of(model)
    model.generation_config.update(
        do_sample=True, temperature=3.0, repetition_penalty=5.0, no_repeat_ngram_size=1
    )

    assert answers_of(model) == plain


def test_an_answer_ends_with_its_first_stop_token_and_its_text_has_no_special_token():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    model.generation_config.eos_token_id = [*STOPS, tokenizer.eos_token_id]

    answers = answers_of(model)

    ended = [answer.tokens for answer in answers if len(answer.tokens) < 20]
    assert len(ended) > 3
    # One may end with its twentieth token.
    cut = [answer.tokens[-1] not in [*STOPS, tokenizer.eos_token_id] for answer in answers]
    assert [answer.cut for answer in answers] == cut
    assert 0 < sum(cut) < len(cut)
    assert all(tokens[-1] in model.generation_config.eos_token_id for tokens in ended)
    assert not any({*STOPS} & {*answer.tokens[:-1]} for answer in answers)
    assert [answer.text for answer in answers] == tokenizer.batch_decode(
        [answer.tokens for answer in answers], skip_special_tokens=True
    )


def test_rows_that_are_done_leave_the_batch():
    model = tiny_llama()
    model.generation_config.eos_token_id = STOPS
    seen = shapes_of_each_forward(model)

    answers = answers_of(model)

    rows = [rows for rows, _ in seen]
    assert rows[0] == 13 > min(rows)
    assert sum(rows) == sum(len(answer.tokens) for answer in answers)


def test_rows_stay_where_a_cache_holds_more_than_keys_and_values():
    model = ARCHITECTURES["convolution and attention"]()
    model.generation_config.eos_token_id = STOPS
    seen = shapes_of_each_forward(model)

    answers = answers_of(model)

    assert [rows for rows, _ in seen] == [13] * max(len(answer.tokens) for answer in answers)
    assert len({answer.tokens for answer in answers}) > 1


@pytest.mark.parametrize("size", [4, 64])
def test_what_all_prompts_begin_with_is_read_once_and_little_padding(size):
    model = tiny_llama()
    seen = shapes_of_each_forward(model)

    answers_of(model, LONG, count=1, size=size)

    own = sum(len(prompt) - len(SHARED) for prompt in LONG)
    assert seen[0] == (1, len(SHARED))
    assert own <= sum(rows * width for rows, width in seen[1:]) < 1.3 * own
    assert len(seen) < 10


def test_one_beginning_is_not_taken_for_that_of_other_weights():
    model = tiny_llama()
    answers_of(model, LONG)
    model.model.layers[0].self_attn.v_proj.weight.data.neg_()

    answers = answers_of(model, LONG)

    assert [answer.tokens for answer in answers] == [generated(model, p, 20, [2]) for p in LONG]


def test_prompts_that_are_all_the_same_are_answered():
    model = tiny_llama()

    answers = answers_of(model, [LONG[5]] * 4)

    assert {answer.tokens for answer in answers} == {generated(model, LONG[5], 20, [2])}


def test_a_row_whose_logits_are_nan_is_marked():
    model, tokenizer = tiny_llama(tied=False), tiny_tokenizer()
    prompts = [encode_prompt(tokenizer, *question_row(number).questions) for number in (1, 7)]
    model.model.embed_tokens.weight.data[tokenizer("7")["input_ids"][0]] = float("nan")

    assert [answer.finite for answer in answers_of(model, prompts)] == [True, False]


@pytest.mark.parametrize("stops", [False, True])
def test_a_nan_that_comes_with_a_later_token_counts_until_the_row_is_done(stops):
    model = tiny_llama(tied=False)
    (token,) = generated(model, PROMPTS[0], 1)
    assert not any(token in prompt for prompt in PROMPTS)
    model.model.embed_tokens.weight.data[token] = float("nan")
    # Where the token is a stop, the row that is done must not be read any more.
    model.generation_config.eos_token_id = [token if stops else 2]

    answers = answers_of(model)

    assert answers[0].finite == stops
    assert len(answers[0].tokens) == 1 if stops else len(answers[0].tokens) > 1
    assert max(len(answer.tokens) for answer in answers) == 20


def test_the_output_layer_sees_contiguous_input_only_while_answering():
    model, seen = tiny_llama(), []
    layer = model.get_output_embeddings()
    forward = layer.forward
    layer.forward = lambda hidden: seen.append(hidden.is_contiguous()) or forward(hidden)

    answers_of(model)

    assert seen
    assert all(seen)
    assert not layer._forward_pre_hooks
