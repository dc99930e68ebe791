"""Checkpoints that cannot be tuned are refused, with the reason and a way out."""

import json

import pytest
import torch
from tiny_models import (
    change_config,
    change_weights,
    tiny_llama,
    tiny_qwen2,
    write_gguf,
    write_model,
)
from transformers import AutoModelForCausalLM

from esft.errors import ModelError
from esft.models.load import load_model


@pytest.fixture
def folder(tmp_path):
    """A folder with a tiny Llama with tied embeddings in float32, and its chat tokenizer."""
    return write_model(tmp_path / "tiny")


def test_a_pickle_is_never_loaded(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": torch.ones(32)}, folder / "pytorch_model.bin")

    with pytest.raises(ModelError, match=r"pickles only \(pytorch_model.bin\)") as caught:
        load_model(str(folder))

    assert "save_pretrained" in caught.value.hint


def test_transformers_is_told_to_take_no_pickle_and_no_code(folder, monkeypatch):
    asked = {}
    real = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda *a, **how: asked.update(how) or real(*a, **how),
    )

    load_model(str(folder))

    assert asked["use_safetensors"] is True
    assert asked["trust_remote_code"] is False


def test_an_index_that_names_pickles_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "weights.bin")
    index = {"weight_map": {"model.norm.weight": "weights.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(ModelError, match="names no or other files than"):
        load_model(str(folder))


def test_a_config_that_names_another_file_of_weights_is_refused(folder):
    (folder / "adapter_model.bin").touch()
    change_config(folder, transformers_weights="adapter_model.bin")

    with pytest.raises(ModelError, match=r"pickles only \(adapter_model.bin\)"):
        load_model(str(folder))


def test_a_missing_file_of_a_sharded_checkpoint_is_named(tmp_path):
    folder = write_model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    tiny_llama().save_pretrained(folder, max_shard_size="40kB")
    last = sorted(folder.glob("*.safetensors"))[-1]
    last.unlink()

    with pytest.raises(ModelError, match=f"lacks {last.name}, one of"):
        load_model(str(folder))


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_weights_cut_short_are_refused(keep, folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])

    with pytest.raises(ModelError, match=r"model\.safetensors is damaged or cut short"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "fp8"},
    ],
)
def test_a_quantized_checkpoint_is_refused(config, folder):
    change_config(folder, quantization_config=config)

    with pytest.raises(ModelError, match=f"quantized .*{config['quant_method']}.* yet") as caught:
        load_model(str(folder))

    assert caught.value.hint == "take the checkpoint it was made from"


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_integer_weights_are_refused_also_without_a_word_in_the_config(dtype, folder):
    name = "model.layers.0.mlp.up_proj.weight"
    change_weights(folder, lambda weights: weights.update({name: weights[name].to(dtype)}))

    with pytest.raises(ModelError, match=rf"is quantized \({name} is \w+\)"):
        load_model(str(folder))


def test_parameters_that_are_no_floats_once_loaded_are_refused(folder, monkeypatch):
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


@pytest.mark.parametrize(
    ("value", "what"),
    [(float("nan"), "NaN"), (-float("inf"), "infinite")],
)
def test_a_weight_that_is_not_finite_is_named(value, what, folder):
    name = "model.layers.1.mlp.up_proj.weight"
    change_weights(folder, lambda weights: weights[name][-1].fill_(value))

    with pytest.raises(ModelError, match=f"{name} holds {what}") as caught:
        load_model(str(folder))

    assert "damaged" in caught.value.hint


def test_weights_that_overflow_in_float16_are_refused_with_another_dtype_as_hint(folder):
    change_weights(folder, lambda weights: weights["model.norm.weight"].fill_(1e5))

    with pytest.raises(ModelError, match=r"model\.norm\.weight holds infinite") as caught:
        load_model(str(folder), dtype="float16")

    assert "try bfloat16 or float32" in caught.value.hint
    assert load_model(str(folder), dtype="bfloat16").dtype == torch.bfloat16


def test_a_weight_that_the_checkpoint_lacks_is_not_made_up(folder):
    names = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    change_weights(folder, lambda weights: [weights.pop(name) for name in names])

    with pytest.raises(ModelError, match=f"lacks {names[0]} and 1 more"):
        load_model(str(folder))


def test_a_weight_of_another_shape_is_refused(folder):
    name = "model.norm.weight"
    change_weights(folder, lambda weights: weights.update({name: torch.ones(31)}))

    with pytest.raises(ModelError, match=r"norm.weight has shape \(31,\), .* expects \(32,\)"):
        load_model(str(folder))


def test_a_config_that_is_no_json_is_refused(folder):
    (folder / "config.json").write_text("{")

    with pytest.raises(ModelError, match=r"config\.json is not JSON"):
        load_model(str(folder))


def test_a_folder_that_holds_a_gguf_file_only_says_to_name_the_file(tmp_path):
    file = write_gguf(tmp_path / "t.gguf")

    with pytest.raises(ModelError, match=r"has no config\.json") as caught:
        load_model(str(tmp_path))

    assert caught.value.hint == f"name the file itself: {file}"


def test_an_adapter_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")

    with pytest.raises(ModelError, match="is an adapter") as caught:
        load_model(str(folder))

    assert "merge" in caught.value.hint


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0", "model": 1}', None])
@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2])
def test_a_missing_or_damaged_tokenizer_is_refused_before_weights_are_read(make, content, tmp_path):
    folder = write_model(tmp_path / "m", make())
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
        ({"architectures": ["BertForMaskedLM"]}, "is not a causal language model: .*MaskedLM"),
        ({"is_encoder_decoder": True}, "is not a causal language model"),
        ({"model_type": "llama99"}, "cannot be loaded: .*llama99"),
        ({"hidden_size": "many"}, "cannot be loaded: .*hidden_size"),
        ({"auto_map": {"AutoConfig": "own.A"}, "model_type": "own"}, "needs Python code of its"),
    ],
)
def test_a_config_that_cannot_be_tuned_is_refused_before_weights_are_read(config, message, folder):
    (folder / "model.safetensors").write_bytes(b"")
    change_config(folder, **config)

    with pytest.raises(ModelError, match=message):
        load_model(str(folder))


def test_an_architecture_that_does_not_continue_texts_is_said_by_transformers(folder):
    change_config(folder, model_type="t5", architectures=["T5ForConditionalGeneration"])

    with pytest.raises(ModelError, match="cannot be loaded: Unrecognized configuration class"):
        load_model(str(folder))


def test_a_model_too_large_for_the_device_is_refused(folder, monkeypatch):
    def out_of_memory(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", out_of_memory)

    with pytest.raises(
        ModelError, match=r"does not fit into memory: .* Tried to allocate 2 GiB\.$"
    ):
        load_model(str(folder))


def test_an_error_that_nobody_knows_keeps_its_traceback(folder, monkeypatch):
    def bug(*args, **options):
        raise AttributeError("a bug")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", bug)

    with pytest.raises(AttributeError, match="a bug"):
        load_model(str(folder))
