from dataclasses import replace

import pytest
import torch
from scoring import asked, question_row
from tiny_models import tiny_llama, tiny_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import Cache

from esft.rollout import generate
from esft.rollout.batches import Batches
from esft.rollout.encode import encode_prompt
from esft.rollout.generate import greedy_answers


def prompts_of(tokenizer, numbers=range(9)):
    return [encode_prompt(tokenizer, *question_row(number).questions) for number in numbers]


def greedy_alone(model, prompt, count, stop):
    """Greedy tokens by plain forwards over one growing sequence."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < count:
        with torch.no_grad():
            token = model(torch.tensor([tokens])).logits[0, -1].argmax().item()
        if token == stop:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


@pytest.mark.parametrize("size", [1, 4, 64])
def test_answers_are_the_argmax_token_by_token(size):
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    prompts = prompts_of(tokenizer)

    answers = greedy_answers(model, tokenizer, prompts, 12, Batches(size))

    expected = [greedy_alone(model, prompt, 12, tokenizer.eos_token_id) for prompt in prompts]
    assert [answer.text for answer in answers] == tokenizer.batch_decode(
        expected, skip_special_tokens=True
    )


def test_settings_of_the_checkpoint_do_not_bend_greedy_answers():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    prompts = prompts_of(tokenizer)
    plain = greedy_answers(model, tokenizer, prompts, 12, Batches())
    model.generation_config.update(
        do_sample=True, temperature=3.0, repetition_penalty=5.0, no_repeat_ngram_size=1
    )

    assert greedy_answers(model, tokenizer, prompts, 12, Batches()) == plain
    assert model.generation_config.repetition_penalty == 5.0


def test_an_answer_ends_at_the_stop_tokens_of_the_checkpoint():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    prompts = prompts_of(tokenizer, [1])
    tokens = greedy_alone(model, prompts[0], 6, stop=None)
    model.generation_config.eos_token_id = [tokens[3]]

    (answer,) = greedy_answers(model, tokenizer, prompts, 6, Batches())

    stops = tokens.index(tokens[3])
    assert answer.text.startswith(tokenizer.decode(tokens[:stops], skip_special_tokens=True))
    assert len(answer.text) < len(tokenizer.decode(tokens, skip_special_tokens=True))


def test_a_template_is_used_where_there_is_one_without_a_second_bos():
    tokenizer = tiny_tokenizer()
    row = question_row(3)

    text = tokenizer.decode(encode_prompt(tokenizer, *row.questions))

    assert text == f"<|im_start|>user\n{asked(row)}<|im_end|>\n<|im_start|>assistant\n"


def test_a_tokenizer_that_adds_a_bos_adds_none_to_a_templates_own():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id

    assert tokenizer.bos_token_id not in encode_prompt(tokenizer, *question_row(3).questions)


def test_without_a_template_the_prompt_goes_in_plain():
    tokenizer = tiny_tokenizer(chat_template=False)

    assert (
        tokenizer.decode(encode_prompt(tokenizer, *question_row(3).questions))
        == question_row(3).questions[0].prompt
    )


def test_a_row_whose_logits_are_nan_is_marked():
    model, tokenizer = tiny_llama(tied=False), tiny_tokenizer()
    model.model.embed_tokens.weight.data[tokenizer("7")["input_ids"][0]] = float("nan")

    answers = greedy_answers(model, tokenizer, prompts_of(tokenizer, [1, 7]), 4, Batches())

    assert [answer.finite for answer in answers] == [True, False]


def test_a_nan_that_comes_with_a_later_token_is_marked_too():
    model, tokenizer = tiny_llama(tied=False), tiny_tokenizer()
    prompts = prompts_of(tokenizer, [1])
    (first,) = greedy_alone(model, prompts[0], 1, stop=None)
    assert first not in prompts[0]
    model.model.embed_tokens.weight.data[first] = float("nan")

    (answer,) = greedy_answers(model, tokenizer, prompts, 4, Batches())

    assert not answer.finite


def test_no_pad_token_is_needed():
    model, tokenizer = tiny_llama(), tiny_tokenizer(pad=False)
    prompts = prompts_of(tokenizer)

    without = greedy_answers(model, tokenizer, prompts, 8, Batches())

    assert without == greedy_answers(model, tiny_tokenizer(), prompts, 8, Batches())


def test_a_rows_opening_ends_its_prompt():
    question = replace(*question_row(3).questions, opening="<think>")

    with_template = tiny_tokenizer().decode(encode_prompt(tiny_tokenizer(), question))
    plain = tiny_tokenizer(chat_template=False)

    assert with_template.endswith("<|im_start|>assistant\n<think>")
    assert plain.decode(encode_prompt(plain, question)) == f"{question.prompt} <think>"


def batches_seen(model):
    """The number of rows of each forward, in order."""
    seen = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return seen


def test_rows_that_are_done_leave_the_batch_and_change_no_answer():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    prompts = prompts_of(tokenizer, range(16))
    alone = [greedy_alone(model, prompt, 24, stop=None) for prompt in prompts]
    # Every token of the first rows' answers ends an answer: they stop at once, others later.
    model.generation_config.eos_token_id = sorted({token for each in alone[:4] for token in each})
    stops = set(model.generation_config.eos_token_id)
    seen = batches_seen(model)

    answers = greedy_answers(model, tokenizer, prompts, 24, Batches())

    lengths = [
        next((i + 1 for i, token in enumerate(each) if token in stops), 24) for each in alone
    ]
    assert seen[0] == 16
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 16
    # A forward for each token of each row, plus rows that wait until enough are done.
    assert sum(lengths) <= sum(seen) < 16 * max(lengths)
    assert [answer.text for answer in answers] == tokenizer.batch_decode(
        [each[:length] for each, length in zip(alone, lengths, strict=True)],
        skip_special_tokens=True,
    )


def test_a_cache_that_cannot_let_rows_go_is_built_anew(monkeypatch):
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    prompts = prompts_of(tokenizer, range(16))
    model.generation_config.eos_token_id = list(range(60, 200))
    expected = greedy_answers(model, tokenizer, prompts, 12, Batches())
    monkeypatch.setattr(generate, "_PLAIN", ())  # its layers are of another kind
    monkeypatch.setattr(Cache, "batch_select_indices", None)

    assert greedy_answers(model, tokenizer, prompts, 12, Batches()) == expected
    assert len({len(answer.text) for answer in expected}) > 1
