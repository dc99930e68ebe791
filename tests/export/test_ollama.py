"""The Modelfile: what Ollama writes to the model is what the chat template writes."""

import re
from types import SimpleNamespace

import pytest
from tiny_models import CHAT_TEMPLATE, tiny_llama, tiny_qwen2, tiny_tokenizer
from transformers import OPTConfig, OPTForCausalLM

from esft.embedded import EMBEDDED
from esft.export.ollama import modelfile, turn_texts, why_not
from esft.models.load import load_model

BOS = "{{ bos_token }}"
OWN_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}"
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
DATED = "Today is {{ strftime_now('%d') }}. " + CHAT_TEMPLATE
LAST_TURN_OTHERWISE = CHAT_TEMPLATE.replace("<|im_end|>", "{{ '!' if loop.index == 5 }}<|im_end|>")
OF_OLLAMA = CHAT_TEMPLATE.replace("<|im_end|>", "{{ '{{' }}<|im_end|>")
CHATS = [
    [("user", "Who?")],
    [("user", "a"), ("assistant", "b\nc"), ("user", "d")],
    [("system", "Short."), ("user", "a")],
    [("system", "Short."), ("user", "a"), ("assistant", "b"), ("user", "d")],
]


def a_model(model=None, template=CHAT_TEMPLATE, **tokenizer):
    tokenizer = tiny_tokenizer(**tokenizer)
    tokenizer.chat_template = template
    return SimpleNamespace(model=model or tiny_llama(), tokenizer=tokenizer)


def rendered(template, chat):
    """What Ollama makes of a chat, for the few words of its language that we write."""
    start = re.match(r"\{\{ if not \.System \}\}(.*?)\{\{ end \}\}", template, re.DOTALL)
    text = "" if start is None or chat[0][0] == "system" else start[1]
    loop = template[0 if start is None else start.end() :]
    body, opening = re.fullmatch(
        r"\{\{ range \.Messages \}\}(.*)\{\{ end \}\}\{\{ end \}\}(.*?)", loop, re.DOTALL
    ).groups()
    _, *branches = re.split(r'\{\{ (?:else )?if eq \.Role "(\w+)" \}\}', body)
    texts = dict(zip(branches[::2], branches[1::2], strict=True))
    return text + "".join(texts[r].replace("{{ .Content }}", c) for r, c in chat) + opening


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, OWN_SYSTEM + CHAT_TEMPLATE, NO_SYSTEM])
def test_the_template_writes_what_the_chat_template_writes(template):
    loaded = a_model(template=template)

    text = modelfile(loaded)

    (written,) = re.findall(r'^TEMPLATE """(.*)"""$', text, re.DOTALL | re.MULTILINE)
    for chat in CHATS if template != NO_SYSTEM else CHATS[:2]:
        messages = [{"role": role, "content": content} for role, content in chat]
        expected = loaded.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert rendered(written, chat) == expected


@pytest.mark.parametrize("template", [DATED, LAST_TURN_OTHERWISE, OF_OLLAMA])
def test_a_template_that_does_more_is_left_to_ollama(template):
    loaded = a_model(template=template)

    assert turn_texts(loaded.tokenizer) is None
    assert "TEMPLATE" not in modelfile(loaded)


def test_the_token_that_begins_a_text_is_left_out_where_the_tokenizer_adds_it():
    loaded = a_model(template=BOS + CHAT_TEMPLATE)
    plain = turn_texts(loaded.tokenizer)
    loaded.tokenizer.add_bos_token = True

    assert plain.start == plain.system[0][: len(plain.start)] == "<|endoftext|>"
    added = turn_texts(loaded.tokenizer)
    assert (added.start, added.system[0]) == ("", "<|im_start|>system\n")


def test_answers_end_and_are_chosen_as_they_were_measured():
    lines = modelfile(a_model()).splitlines()

    assert lines[1] == "FROM ."
    assert {"PARAMETER temperature 0", "PARAMETER repeat_penalty 1"} <= set(lines)
    assert 'PARAMETER stop "<|im_end|>"' in lines


def test_a_model_without_a_template_is_asked_in_plain_text():
    assert modelfile(a_model(template=None)).endswith('TEMPLATE """{{ .Prompt }}\nAnswer:"""\n')


def test_what_ollama_cannot_read_has_a_reason(tmp_path):
    sizes = {"vocab_size": 8, "hidden_size": 8, "ffn_dim": 8, "word_embed_proj_dim": 8}
    other = OPTForCausalLM(OPTConfig(**sizes, num_hidden_layers=1, num_attention_heads=1))

    assert why_not(a_model(), tmp_path) is None
    assert why_not(a_model(tiny_qwen2()), tmp_path) is None
    assert why_not(a_model(other), tmp_path) == "Ollama reads no OPTForCausalLM as safetensors"
    embedded = load_model(str(EMBEDDED), device="cpu")
    assert "Ollama reads no tokenizer but byte-level BPE" in why_not(embedded, tmp_path)
    (tmp_path / "tokenizer.model").touch()
    assert why_not(embedded, tmp_path) is None
