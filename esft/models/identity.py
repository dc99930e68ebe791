"""What a model answers depends on besides its weights: its parts, one hash each."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_IDLE = ("architectures", "auto_map", "transformers_version", "transformers_weights")
_IDLE += ("dtype", "torch_dtype", "use_cache", "initializer_range")
_IDLE += ("bos_token_id", "eos_token_id", "pad_token_id")
"""Of a config, beside names with an underscore, which hold paths: what changes no answer of the
weights as they are loaded. Which tokens end an answer is a part of its own."""


def parts_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return the sha256 of each part: config, tokenizer, chat template and stop tokens.

    A copy of the model, or a folder saved again, has the same parts. Of a model with Python code of
    its own, that code is one more part.
    """
    parts: dict[str, object] = {
        "config": _config_facts(model.config),
        "tokenizer": _tokenizer_facts(tokenizer),
        "chat template": tokenizer.chat_template,
        "stop tokens": sorted(stop_tokens(model, tokenizer)),
    }
    package = type(model).__module__.rpartition(".")[0]
    if package.startswith("transformers_modules"):
        own = [module for name, module in sys.modules.items() if name.startswith(f"{package}.")]
        files = {module.__file__ for module in own if getattr(module, "__file__", None)}
        parts["code"] = sorted(Path(file).read_bytes().decode("latin-1") for file in files)
    texts = {name: json.dumps(part, sort_keys=True, default=str) for name, part in parts.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer: the checkpoint's own, else the tokenizer's."""
    stops = model.generation_config.eos_token_id
    if stops is None:
        stops = tokenizer.eos_token_id
    if stops is None:
        return []
    return list(stops) if isinstance(stops, (list, tuple)) else [stops]


def _config_facts(config) -> dict[str, object]:
    """Return what a config says beyond what its kind says by itself.

    So a newer transformers, whose configs have one more field, gives the same for the same files.
    """
    try:
        usual = type(config)().to_dict()
    except Exception:  # also code of a checkpoint's own: its kind has no values by itself
        usual = {}
    facts = {
        key: value
        for key, value in config.to_dict().items()
        if key not in usual or usual[key] != value
    }
    return _active({**facts, "model_type": config.model_type})


def _active(facts: dict) -> dict[str, object]:
    """Return a config without what changes no answer, also in the configs within it."""
    return {
        str(key): _active(value) if isinstance(value, dict) else value
        for key, value in facts.items()
        if key not in _IDLE and not str(key).startswith("_")
    }


def _tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> list[object]:
    """Return how a tokenizer makes tokens of a text, and a text of tokens."""
    special = dict(tokenizer.special_tokens_map)
    special.pop("pad_token", None)  # padding is always masked
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return [type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.init_kwargs, special]
    pipeline = json.loads(fast.to_str())
    for of_a_call in ("truncation", "padding"):
        pipeline.pop(of_a_call)
    return [pipeline, special, tokenizer.clean_up_tokenization_spaces]
