"""What the embedded model is before its training: vocabulary, tokenizer, untrained weights."""

from string import ascii_letters, digits, punctuation

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "<end>", "<unk>"
SPECIAL_TOKENS = (PAD, END, UNKNOWN)
VOCABULARY = (*SPECIAL_TOKENS, "\n", " ", *digits, *ascii_letters, *punctuation)
"""A token for each printable character of ASCII, so that any short English text can go in."""
ANSWER_SIGN = "="
"""What stands between question and answer."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    f"{ANSWER_SIGN}{{{{ message['content'] }}}}{END}"
    "{% else %}"
    "{% if not loop.first and loop.previtem['role'] != 'assistant' %} {% endif %}"
    "{{ message['content'] }}"
    "{% endif %}{% endfor %}"
    f"{{% if add_generation_prompt %}}{ANSWER_SIGN}{{% endif %}}"
)
"""question=answer<end>, over and over; questions without an answer are joined by a space."""


def untrained_model(seed: int) -> LlamaForCausalLM:
    """A Llama of 0.86 million weights in float32, with random weights drawn from `seed`."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=VOCABULARY.index(END),
        pad_token_id=VOCABULARY.index(PAD),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; no token is put before or behind a text."""
    # A byte-pair encoding without pairs: every character stands alone.
    backend = Tokenizer(
        models.BPE({token: i for i, token in enumerate(VOCABULARY)}, [], unk_token=UNKNOWN)
    )
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
