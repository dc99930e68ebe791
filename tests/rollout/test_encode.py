from dataclasses import replace

import pytest
from scoring import asked, question_row
from tiny_models import tiny_llama, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from esft.errors import TaskError
from esft.rollout.encode import encode_option, encode_prompt, encode_reference
from esft.tasks.task import Option, ask


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


def test_a_rows_opening_ends_its_prompt():
    question = replace(*question_row(3).questions, opening="<think>")

    with_template = tiny_tokenizer().decode(encode_prompt(tiny_tokenizer(), question))
    plain = tiny_tokenizer(chat_template=False)

    assert with_template.endswith("<|im_start|>assistant\n<think>")
    assert plain.decode(encode_prompt(plain, question)) == f"{question.prompt} <think>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{% if messages[0]['role'] != 'user' %}{{ messages.a.b }}{% endif %}", "has no attribute"),
        ("{% for message in messages %}", "end of template"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ({"other": "x"}, "no default specified"),
    ],
)
def test_a_template_that_refuses_the_messages_says_so_with_their_roles(template, reason):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    question = ask("hi", before=({"role": "system", "content": "Be kind."},))

    with pytest.raises(TaskError, match=rf"refuses messages of system, user: .*{reason}") as caught:
        encode_prompt(tokenizer, question)

    assert "put what it says into the user's message" in caught.value.hint


def test_a_template_that_makes_no_tokens_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% if false %}a{% endif %}"

    with pytest.raises(TaskError, match="makes no tokens of a question"):
        encode_prompt(tokenizer, ask("hi"))


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


@pytest.mark.parametrize("reference", [None, ""])
def test_a_row_without_a_reference_is_refused_by_name(reference):
    tokenizer = tiny_tokenizer()
    model = tiny_llama()
    model.generation_config.eos_token_id = [0]
    question = replace(question_row(7).questions[0], reference=reference)

    with pytest.raises(TaskError, match=r"row row-7 has (no|\d+ tokens of prompt and 0 of) refer"):
        encode_reference(model, tokenizer, question, "row-7")
