from dataclasses import replace

import pytest
import torch
from scoring import question_row
from tiny_models import letters_model, tiny_llama, tiny_tokenizer

from esft.errors import TaskError
from esft.rollout.batches import Batches
from esft.rollout.encode import encode_prompt, encode_reference
from esft.rollout.generate import greedy_answers
from esft.rollout.logprobs import logprobs


def argmax_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].argmax(-1).tolist()


def test_a_reference_goes_on_from_the_prompt_and_ends_the_turn():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    (question,) = question_row(1, answer="fine").questions

    found = encode_reference(model, tokenizer, question, "row-7")

    prompt = encode_prompt(tokenizer, question)
    assert found.tokens[: len(prompt)] == prompt
    assert tokenizer.decode(found.targets) == "fine<|im_end|>"
    assert found.tokens[len(prompt) :] == found.targets[:-1]


def test_a_token_that_the_model_does_not_stop_at_does_not_end_a_reference():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    model.generation_config.eos_token_id = [0]

    found = encode_reference(model, tokenizer, *question_row(1, answer="fine").questions, "row-1")

    assert tokenizer.decode(found.targets) == "fine"


def test_an_opening_is_part_of_the_prompt_and_not_of_what_is_scored():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    (question,) = question_row(1).questions
    question = replace(question, opening="<think>", reference="<think>so</think> yes")

    found = encode_reference(model, tokenizer, question, "row-7")

    prompt = found.tokens[: len(found.tokens) + 1 - len(found.targets)]
    assert prompt == encode_prompt(tokenizer, question)
    assert tokenizer.decode(prompt).endswith("assistant\n<think>")
    assert tokenizer.decode(found.targets) == "so</think> yes<|im_end|>"


def test_without_a_template_a_space_parts_prompt_and_reference():
    model, tokenizer = tiny_llama(), tiny_tokenizer(chat_template=False)
    (question,) = question_row(1, answer="fine").questions

    found = encode_reference(model, tokenizer, question, "row-7")

    text = tokenizer.decode((*found.tokens, found.targets[-1]))
    assert text == f"{question.prompt} fine<|im_end|>"


@pytest.mark.parametrize("number", range(6))
def test_all_tokens_are_the_argmax_exactly_where_the_greedy_answer_is_the_reference(number):
    tokenizer = tiny_tokenizer()
    model = letters_model(tokenizer)
    (question,) = question_row(number).questions
    prompt = encode_prompt(tokenizer, question)
    (greedy,) = greedy_answers(model, tokenizer, [prompt], 4, Batches())
    right = encode_reference(model, tokenizer, replace(question, reference=greedy.text), "row-1")
    wrong = encode_reference(
        model, tokenizer, replace(question, reference="q" + greedy.text[1:]), "row-1"
    )

    said = [argmax_of(model, each.tokens)[len(prompt) - 1 :][:4] for each in (right, wrong)]

    assert len(greedy.text) == 4
    assert tuple(said[0]) == right.targets[:4]
    assert tuple(said[1]) != wrong.targets[:4]


def test_a_likelier_reference_scores_higher():
    tokenizer = tiny_tokenizer()
    model = letters_model(tokenizer)
    (question,) = question_row(3).questions
    (greedy,) = greedy_answers(model, tokenizer, [encode_prompt(tokenizer, question)], 5, Batches())
    texts = [greedy.text, "zzzzz"]
    pairs = [
        encode_reference(model, tokenizer, replace(question, reference=text), "row-1")
        for text in texts
    ]

    likely, unlikely = logprobs(model, pairs, Batches())

    assert unlikely < likely < 0


@pytest.mark.parametrize("reference", [None, ""])
def test_a_row_without_a_reference_is_refused_by_name(reference):
    tokenizer = tiny_tokenizer()
    model = tiny_llama()
    model.generation_config.eos_token_id = [0]
    question = replace(question_row(7).questions[0], reference=reference)

    with pytest.raises(TaskError, match=r"row row-7 has (no|\d+ tokens of prompt and 0 of) refer"):
        encode_reference(model, tokenizer, question, "row-7")
