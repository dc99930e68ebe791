"""Checkpoints that cannot be tuned are refused, with the reason and a way out."""

import json
import os

import pytest
import torch
from damage import cut_off
from tiny_models import change_config, change_weights, tiny_llama, write_gguf, write_model
from transformers import AutoModelForCausalLM

from esft.errors import ModelError
from esft.models.load import load_model

WEIGHTS = "model.safetensors"
NORM = "model.norm.weight"
UP = "model.layers.0.mlp.up_proj.weight"
LAST_UP = "model.layers.1.mlp.up_proj.weight"


# Files


def pickle_only(folder):
    (folder / "model.safetensors").unlink()
    torch.save({NORM: torch.ones(32)}, folder / "pytorch_model.bin")


def index_of(weight_map):
    def change(folder):
        (folder / WEIGHTS).rename(folder / "weights.bin")
        index = json.dumps({"weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(index)

    return change


def instead_of(file, put):
    def change(folder):
        (folder / file).unlink(missing_ok=True)
        put(folder / file)

    return change


def link_to_itself(path):
    path.symlink_to(path.name)


FILES = [
    (pickle_only, r"pickles only \(pytorch_model.bin\)", "save_pretrained"),
    (
        lambda folder: change_config(folder, transformers_weights="adapter_model.bin"),
        r"pickles only \(adapter_model.bin\)",
        "save_pretrained",
    ),
    (index_of({NORM: "weights.bin"}), "names no or other files than", "again"),
    (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        "is an adapter",
        "merge it into its base model first",
    ),
    (
        lambda folder: (folder / "config.json").write_text("{"),
        r"config\.json is not JSON",
        "again",
    ),
    (
        lambda folder: (folder / "config.json").write_text("[" * 100_000),
        r"config\.json is not JSON: brackets are nested too deeply",
        "again",
    ),
    (
        lambda folder: (folder / "generation_config.json").write_text("[]"),
        r"generation_config\.json does not hold a JSON object",
        "again",
    ),
    (index_of({NORM: ["m.safetensors"]}), "names no or other files than", "again"),
    *(
        (
            instead_of(file, put),
            rf"{file} is not a file|has no config|no weights as safetensors",
            "",
        )
        for file in ("config.json", "chat_template.jinja", "generation_config.json", WEIGHTS)
        for put in (os.mkfifo, os.mkdir, link_to_itself)
    ),
    (
        lambda folder: cut_off(folder / "model.safetensors"),
        r"model\.safetensors is damaged or cut short",
        "again",
    ),
]


@pytest.mark.parametrize(("change", "message", "hint"), FILES)
def test_files_that_are_no_checkpoint_to_tune_are_refused(change, message, hint, folder):
    change(folder)

    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(folder))

    assert hint in caught.value.hint


def test_transformers_is_told_to_take_no_pickle_and_no_code(folder, monkeypatch):
    options = {}
    real = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda *a, **given: options.update(given) or real(*a, **given),
    )

    load_model(str(folder))

    assert (options["use_safetensors"], options["trust_remote_code"]) == (True, False)


def test_a_missing_file_of_a_sharded_checkpoint_is_named(folder):
    (folder / "model.safetensors").unlink()
    tiny_llama().save_pretrained(folder, max_shard_size="40kB")
    last = sorted(folder.glob("*.safetensors"))[-1]
    last.unlink()

    with pytest.raises(ModelError, match=f"lacks {last.name}, one of"):
        load_model(str(folder))


def test_a_folder_that_holds_a_gguf_file_only_says_to_name_the_file(tmp_path):
    file = write_gguf(tmp_path / "t.gguf")

    with pytest.raises(ModelError, match=r"has no config\.json") as caught:
        load_model(str(tmp_path))

    assert caught.value.hint == f"name the file itself: {file}"


# Before weights are read


@pytest.mark.parametrize("content", ["", '{"version": "1.0", "model": 1}', None])
def test_a_missing_or_damaged_tokenizer_is_refused_before_weights_are_read(content, folder):
    (folder / "model.safetensors").write_bytes(b"")
    if content is None:
        (folder / "tokenizer_config.json").unlink()
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "tokenizer.json").write_text(content)

    with pytest.raises(ModelError, match="its tokenizer is missing or cannot be read"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized .*gptq.*"),
        ({"architectures": ["BertForMaskedLM"]}, "is not a causal language model: .*MaskedLM"),
        ({"is_encoder_decoder": True}, "is not a causal language model"),
        ({"model_type": "llama99"}, "cannot be loaded: .*llama99"),
        ({"hidden_size": "many"}, "cannot be loaded: .*hidden_size"),
        ({"vocab_size": -1}, "makes no model: RuntimeError: .*negative dimension -1"),
        ({"num_attention_heads": 0}, "makes no model: ZeroDivisionError"),
        ({"num_key_value_heads": 0}, "makes no model: ZeroDivisionError"),
        ({"hidden_act": "nope"}, "makes no model: KeyError: 'nope'"),
        ({"pad_token_id": 10**9}, "makes no model: AssertionError: Padding_idx"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "makes no model: KeyError: .*factor"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers of its config is 1000000, expected 1"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers of its config is 1000000000000, ex"),
        ({"num_hidden_layers": 0}, "num_hidden_layers of its config is 0, expected 1 to 1000"),
        ({"text_config": {"n_layer": -1}}, "n_layer of its config is -1, expected 1 to 1000"),
        ({"architectures": 3}, "architectures of config.json is no list"),
        ({"model_type": []}, "makes no model: TypeError"),
        ({"id2label": [1]}, "makes no model: AttributeError"),
        ({"text_config": [1]}, "makes no model: AttributeError"),
        ({"dtype": ["x"]}, "makes no model: IndexError"),
        ({"auto_map": {"AutoConfig": "own.A"}, "model_type": "own"}, "needs Python code of its"),
    ],
)
def test_a_config_that_cannot_be_tuned_is_refused_before_weights_are_read(config, message, folder):
    (folder / "model.safetensors").write_bytes(b"")
    change_config(folder, **config)

    with pytest.raises(ModelError, match=message):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"eos_token_id": "x"}, "eos_token_id is 'x', expected whole numbers"),
        ({"eos_token_id": [2, "a"]}, "eos_token_id is .2, 'a'., expected whole numbers"),
        ({"eos_token_id": {}}, "eos_token_id is {}, expected whole numbers"),
        ({"eos_token_id": 1.5}, "eos_token_id is 1.5, expected whole numbers"),
        ({"watermarking_config": 3}, "makes no model: AttributeError"),
        ({"max_new_tokens": "x"}, "makes no model: TypeError"),
    ],
)
def test_a_generation_config_out_of_its_kind_is_refused(config, message, folder):
    (folder / "generation_config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match=message):
        load_model(str(folder))


# Weights


def changed_to(name, change):
    return lambda weights: weights.update({name: change(weights[name])})


@pytest.mark.parametrize(
    ("change", "dtype", "message", "hint"),
    [
        (
            changed_to(UP, lambda weight: weight.to(torch.float8_e4m3fn)),
            None,
            rf"quantized \({UP} is F8_E4M3\)",
            "made from",
        ),
        (lambda all: all[LAST_UP][-1].fill_(float("nan")), None, f"{LAST_UP} holds NaN", "damaged"),
        (lambda all: all[NORM][-1].fill_(-float("inf")), None, f"{NORM} holds infi", "damaged"),
        (lambda all: all[NORM].fill_(1e5), "float16", f"{NORM} holds infi", "try bfloat16"),
        (lambda all: [all.pop(UP), all.pop(NORM)], None, f"lacks {UP} and 1 more", "whole"),
        (
            changed_to(NORM, lambda _: torch.ones(31)),
            None,
            rf"{NORM} has shape \(31,\), .* expects \(32,\)",
            "different models",
        ),
    ],
)
def test_weights_that_cannot_be_tuned_are_refused_by_name(change, dtype, message, hint, folder):
    change_weights(folder, change)

    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(folder), dtype=dtype)

    assert hint in caught.value.hint


@pytest.mark.parametrize("size", ["vocab_size", "intermediate_size"])
def test_a_config_that_calls_for_far_more_weights_takes_no_memory_for_them(size, folder):
    change_config(folder, **{size: 10**9})

    with pytest.raises(ModelError, match=r"calls for [\d,]{14,} weights, .* hold 26,944") as error:
        load_model(str(folder))

    assert "different models" in error.value.hint


@pytest.mark.parametrize("window", ["nope", [1], 1.5])
def test_a_config_whose_values_fail_at_the_first_token_is_refused(window, folder):
    change_config(folder, sliding_window=window)

    with pytest.raises(ModelError, match="makes no model: TypeError"):
        load_model(str(folder))


def test_a_pipe_called_gguf_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "m.gguf")

    with pytest.raises(ModelError, match=r"is neither a folder nor a \.gguf file"):
        load_model(str(tmp_path / "m.gguf"))


def test_parameters_that_are_not_floats_once_loaded_are_refused(folder, monkeypatch):
    real = AutoModelForCausalLM.from_pretrained

    def packed(*args, **options):
        model, info = real(*args, **options)
        model.model.norm.weight = torch.nn.Parameter(torch.ones(32).byte(), requires_grad=False)
        return model, info

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", packed)

    with pytest.raises(ModelError, match=r"quantized \(model\.norm\.weight is uint8\)"):
        load_model(str(folder))


def test_a_dtype_that_cannot_be_tuned_is_refused_and_a_named_one_helps(tmp_path):
    folder = write_model(tmp_path / "m", tiny_llama(dtype=torch.float64))

    with pytest.raises(ModelError, match="is float64, expected one of float32") as caught:
        load_model(str(folder))

    assert caught.value.hint == "name a dtype: --dtype float32"
    assert load_model(str(folder), dtype="float32").dtype == torch.float32


# Errors of transformers


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
            ModelError,
            r"does not fit into memory: .* Tried to allocate 2 GiB\.$",
        ),
        (AttributeError("a bug"), AttributeError, "^a bug$"),  # with its traceback
    ],
)
def test_too_little_memory_is_said_and_a_bug_stays_a_bug(
    error, expected, message, folder, monkeypatch
):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)

    with pytest.raises(expected, match=message):
        load_model(str(folder))
