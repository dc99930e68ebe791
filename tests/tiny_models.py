"""Tiny language models with a byte-level tokenizer, built in memory or written to a folder."""

import json
import string
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("a", "b")]
VOCABULARY = (*SPECIAL_TOKENS, *BYTES, "ab")  # 261 tokens: every text can be written with them
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def tiny_tokenizer(
    *, chat_template: bool = True, pad: bool = True, eos: bool = True
) -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each byte and one for ab; bos <|endoftext|>, eos <|im_end|>."""
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(VOCABULARY)}, MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>" if eos else None,
        pad_token="<|pad|>" if pad else None,
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat_template else None
    return tokenizer


def tiny_llama(*, tied: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0, **changes):
    """A Llama of about 29,000 weights (8,000 more where the embeddings are not tied)."""
    config = LlamaConfig(**{**SIZES, "tie_word_embeddings": tied, **changes})
    return _random(LlamaForCausalLM, config, dtype, seed)


def tiny_qwen2(*, tied: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0):
    """A Qwen2 of the same size as `tiny_llama`; its attention has biases."""
    config = Qwen2Config(**{**SIZES, "tie_word_embeddings": tied})
    return _random(Qwen2ForCausalLM, config, dtype, seed)


def _random(kind, config, dtype, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).to(dtype).eval().requires_grad_(False)


def letters_model(tokenizer):
    """A model that answers in letters: what it says can be written down and read again."""
    model = tiny_llama(tied=False)
    letters = [tokenizer(letter)["input_ids"][0] for letter in string.ascii_letters]
    other = torch.ones(model.config.vocab_size, dtype=torch.bool)
    other[letters] = False
    model.lm_head.weight.data[other] = 0.0  # a logit of 0, and some letter's is above it
    return model


def write_model(
    folder: Path,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **options: object,
) -> Path:
    """Write model and tokenizer (a tied Llama and a chat tokenizer by default) to `folder`."""
    (tiny_llama() if model is None else model).save_pretrained(folder, **options)
    (tiny_tokenizer() if tokenizer is None else tokenizer).save_pretrained(folder)
    return folder


def write_gguf(
    path: Path,
    model: PreTrainedModel | None = None,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    kinds: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    blocks: Callable[[str, tuple[int, ...]], np.ndarray] | None = None,
) -> Path:
    """Write a Qwen2 (one with tied embeddings by default) or a Llama and its tokenizer to a .gguf.

    Matrices are stored as `kind`, or as `kinds` has it by the name of the parameter, vectors as
    float32. `blocks` makes the bytes of a matrix of its name and shape, in place of its numbers.
    The rows of a Llama's queries and keys are stored in the order of llama.cpp.
    """
    model = tiny_qwen2() if model is None else model
    writer = gguf.GGUFWriter(path, model.config.model_type)
    config = model.config
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    for add, value in (
        (writer.add_name, "tiny"),
        (writer.add_block_count, config.num_hidden_layers),
        (writer.add_context_length, config.max_position_embeddings),
        (writer.add_embedding_length, config.hidden_size),
        (writer.add_feed_forward_length, config.intermediate_size),
        (writer.add_head_count, config.num_attention_heads),
        (writer.add_head_count_kv, config.num_key_value_heads),
        (writer.add_layer_norm_rms_eps, config.rms_norm_eps),
        (writer.add_rope_freq_base, config.rope_parameters["rope_theta"]),
        (writer.add_vocab_size, config.vocab_size),
        (writer.add_file_type, 7),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_tokenizer_pre, "qwen2"),
        (writer.add_token_list, VOCABULARY),
        (writer.add_token_types, [control if t in SPECIAL_TOKENS else normal for t in VOCABULARY]),
        (writer.add_token_merges, [" ".join(pair) for pair in MERGES]),
        (writer.add_bos_token_id, 0),
        (writer.add_eos_token_id, 2),
        (writer.add_pad_token_id, 3),
        (writer.add_add_bos_token, False),
        (writer.add_chat_template, CHAT_TEMPLATE),
    ):
        add(value)
    architecture = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        stored = (kinds or {}).get(name, kind)
        stored = stored if parameter.dim() == 2 else gguf.GGMLQuantizationType.F32
        short = names.get_name(name, try_suffixes=(".weight", ".bias"))
        values = as_llama_cpp_orders(parameter.detach().float().numpy(), name, config)
        made = blocks is not None and parameter.dim() == 2
        data = blocks(name, values.shape) if made else gguf.quants.quantize(values, stored)
        writer.add_tensor(short, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_llama_cpp_orders(values: np.ndarray, name: str, config: LlamaConfig) -> np.ndarray:
    """Return a parameter with the rows of a Llama's queries and keys in the order of llama.cpp: of
    a head the first of each half, then the second of each, and so on."""
    of = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
    heads = of.get(".".join(name.split(".")[-2:]))
    if config.model_type != "llama" or heads is None:
        return values
    halves = values.reshape(heads, 2, len(values) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def change_config(folder: Path, **changes: object) -> None:
    """Set keys of the config.json in `folder`."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Let `change` edit the tensors of the model.safetensors in `folder`."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same parameters: names, dtypes and values."""
    pairs = list(zip(one.named_parameters(), other.named_parameters(), strict=True))
    return all(a == b and p.dtype == q.dtype and p.equal(q) for (a, p), (b, q) in pairs)


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    """What `model` makes of two fixed sequences of 24 tokens, (2, 24, vocabulary)."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.config.vocab_size, (2, 24), generator=generator)
    with torch.no_grad():
        return model(tokens.to(model.device)).logits
