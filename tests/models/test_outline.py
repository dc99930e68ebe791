"""A model told from config and headers is the one that is loaded."""

import json

import pytest
import torch
from loopback_hub import LoopbackHub, commit_of, run_python
from tiny_models import change_config, tiny_llama, tiny_qwen2, write_gguf, write_model
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from esft.errors import ModelError
from esft.models.load import load_model, outline_of
from esft.models.outline import outline_model
from esft.models.shape import published_shapes, shape_of

OUTLINE = """
import json
from pathlib import Path
from esft.models.outline import outline_model
from esft.models.shape import shape_of
outline = outline_model("org/sharded")
shape = shape_of(outline.model)
print(json.dumps([shape.dtype, shape.parameters, outline.missing]))
"""


@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_outline_of_a_folder_has_the_shape_of_the_loaded_model(tied, dtype, tmp_path):
    folder = write_model(tmp_path / "m", tiny_llama(tied=tied, dtype=torch.bfloat16))

    outline = outline_model(str(folder), dtype=dtype, device="cpu")
    loaded = load_model(str(folder), dtype=dtype, device="cpu")

    assert shape_of(outline.model) == shape_of(loaded.model)
    assert shape_of(outline.model).nbytes == sum(p.nbytes for p in loaded.model.parameters())
    assert {p.device.type for p in outline.model.parameters()} == {"meta"}
    assert outline.mappable == (dtype is None)


@pytest.mark.parametrize("tied", [True, False])
def test_the_outline_of_a_gguf_file_has_the_shape_of_the_loaded_model(tied, tmp_path):
    file = str(write_gguf(tmp_path / "t.gguf", tiny_qwen2(tied=tied)))

    outline = outline_model(file, device="cpu")

    assert shape_of(outline.model) == shape_of(load_model(file, device="cpu").model)
    assert not outline.mappable


def test_a_config_without_a_dtype_takes_that_of_the_weights(tmp_path):
    folder = write_model(tmp_path / "m", tiny_llama(dtype=torch.float16))
    change_config(folder, dtype=None)

    assert outline_model(str(folder)).dtype == load_model(str(folder)).dtype == torch.float16


def test_what_headers_tell_is_refused_as_on_loading(tmp_path):
    folder = write_model(tmp_path / "m")
    change_config(folder, hidden_size=64, head_dim=16, intermediate_size=512)

    for read in (outline_model, load_model):
        with pytest.raises(ModelError, match=r"config.json calls for .* weights, the files hold"):
            read(str(folder))


def test_of_a_model_on_the_hub_headers_are_read_and_no_weights(tmp_path):
    model = tiny_llama(tied=False, dtype=torch.bfloat16)
    folder = write_model(
        tmp_path / "hub" / "models" / "org" / "sharded", model, max_shard_size="40KB"
    )
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    home = tmp_path / "home"

    with LoopbackHub(tmp_path / "hub") as hub:
        done = run_python(OUTLINE, endpoint=hub.url, home=home)

    assert done.returncode == 0, done.stderr
    dtype, parameters, missing = json.loads(done.stdout)
    assert len(files) > 1
    shapes = {name: list(shape) for name, shape in shape_of(model).parameters.items()}
    assert (dtype, parameters) == ("bfloat16", shapes)
    assert missing == sum(p.nbytes for p in model.parameters())
    assert not list(home.rglob("*.safetensors"))
    assert any(commit_of("org/sharded") in line and files[1] in line for line in hub.requests)


def test_published_sizes_make_models_of_the_published_number_of_weights():
    kinds = {"Qwen3": Qwen3Config, "Qwen2.5": Qwen2Config}
    made = {}
    for name, shape in published_shapes().items():
        config = kinds.get(name.partition("-")[0], LlamaConfig)(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head,
            tie_word_embeddings=shape.numel < 5e9,  # as is usual below, and not above
        )
        made[name] = shape_of(outline_of(config)).numel

    assert made == {name: shape.numel for name, shape in published_shapes().items()}
