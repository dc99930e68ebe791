"""A quantized model is loaded as the codes it has, or a float one as codes made of it."""

import json
import re
import shutil

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from packed_models import GPTQ, INT8, packed_values, write_packed
from tiny_models import (
    change_config,
    change_weights,
    logits_of,
    tiny_llama,
    tiny_qwen2,
    write_gguf,
    write_model,
)

from esft.engine.coded import Coded, CodedEmbedding, CodedLinear, coded_of
from esft.engine.weights import Weights, identity, identity_as_saved
from esft.errors import ModelError
from esft.models.gguf_tensors import tensors_of
from esft.models.load import load_model
from esft.models.outline import outline_model
from esft.models.quantize import quantize_int4, quantize_int8
from esft.models.save import save_model
from esft.models.shape import shape_of

GATE = "model.layers.0.mlp.gate_proj.weight"
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
both = pytest.mark.parametrize("read", [load_model, outline_model])


def codes_in(path, **options):
    return load_model(str(path), weights="codes", dtype="float32", device="cpu", **options)


def floats_in(path):
    return load_model(str(path), dtype="float32", device="cpu")


def wide_llama():
    """A Llama whose matrices have columns enough for the blocks of K types."""
    return tiny_llama(hidden_size=256, intermediate_size=256, num_hidden_layers=1)


def k_blocks(kind):
    """Return what makes blocks of a K type: any codes and factors, and small scales."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    halves = {GGMLQuantizationType.Q6_K: (208,), GGMLQuantizationType.Q4_K: (0, 2)}[kind]

    def made(name, shape):
        draw = np.random.default_rng(len(name))
        blocks = draw.integers(0, 256, (shape[0] * shape[1] // block, size), np.uint8)
        for at in halves:
            scales = draw.uniform(1e-5, 5e-5, len(blocks)).astype("<f2")
            blocks[:, at : at + 2] = scales[:, None].view(np.uint8)
        return blocks.reshape(shape[0], -1)

    return made


FILES = {
    "Q8_0": lambda path, kind: write_gguf(path, tiny_llama(), kind=kind),
    "Q8_0 of a Qwen2 with a head": lambda path, kind: write_gguf(
        path, tiny_qwen2(tied=False), kind=kind
    ),
    "Q4_0": lambda path, kind: write_gguf(path, tiny_qwen2(), kind=kind),
    "Q4_1": lambda path, kind: write_gguf(path, tiny_llama(tied=False), kind=kind),
    "Q5_1": lambda path, kind: write_gguf(path, tiny_llama(), kind=kind),
    "Q4_K": lambda path, kind: write_gguf(path, wide_llama(), kind=kind, blocks=k_blocks(kind)),
    "Q6_K": lambda path, kind: write_gguf(path, wide_llama(), kind=kind, blocks=k_blocks(kind)),
}


@pytest.mark.parametrize("form", FILES)
def test_codes_of_a_gguf_file_are_the_weights_that_transformers_makes_of_it(form, tmp_path):
    file = FILES[form](tmp_path / "t.gguf", GGMLQuantizationType[form.split()[0]])

    loaded, floats = codes_in(file), floats_in(file)

    assert identity_as_saved(loaded.model) == identity(floats.model)
    assert logits_of(loaded.model).equal(logits_of(floats.model))
    assert loaded.parts == floats.parts
    assert loaded.folder is None
    tuned = Weights(loaded.model)
    assert {name.split(".")[-2] for name in tuned.names} == set(LINEAR)
    assert all(tuned.grid(name) is not None for name in tuned.names)
    assert loaded.notes[0].endswith("MB; float32: as asked for")
    assert "bits a weight with their scales" in loaded.notes[0]


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_shares_the_codes_of_the_embedding_where_it_shares_its_matrix(tied, tmp_path):
    file = write_gguf(tmp_path / "t.gguf", tiny_llama(tied=tied), kind=GGMLQuantizationType.Q8_0)

    model = codes_in(file).model

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert (type(embedding), type(head)) == (CodedEmbedding, CodedLinear)
    assert (head.weight is embedding.weight) == tied
    assert not embedding.tuned
    assert not head.tuned
    assert ("lm_head.weight" in coded_of(model)) == (not tied)


def test_rows_of_queries_and_keys_are_put_back_from_the_order_of_the_file(tmp_path):
    model = tiny_llama()
    file = write_gguf(tmp_path / "t.gguf", model, kind=GGMLQuantizationType.Q8_0)

    loaded = codes_in(file).model

    tensors = {one.parameter: one for one in tensors_of(file, loaded)}
    for name, rows in (("q_proj", 32), ("k_proj", 16), ("v_proj", 16)):
        parameter = f"model.layers.1.self_attn.{name}.weight"
        expected = model.get_parameter(parameter).numpy()
        blocks = gguf.quants.quantize(expected, GGMLQuantizationType.Q8_0)
        values = gguf.quants.dequantize(blocks, GGMLQuantizationType.Q8_0)
        assert coded_of(loaded)[parameter].values().equal(torch.from_numpy(values))
        in_order = np.array_equal(tensors[parameter].places, np.arange(rows))
        assert in_order == (name == "v_proj")


def test_matrices_of_a_type_without_codes_stay_as_they_are_which_is_said(tmp_path):
    kinds = {GATE: GGMLQuantizationType.F16, "model.embed_tokens.weight": GGMLQuantizationType.BF16}
    file = write_gguf(
        tmp_path / "t.gguf", tiny_llama(), kind=GGMLQuantizationType.Q4_0, kinds=kinds
    )

    loaded, floats = codes_in(file), floats_in(file)

    assert "matrices of type BF16, F16 stay as they are" in loaded.notes
    assert not {*kinds} & coded_of(loaded.model).keys()
    assert GATE not in Weights(loaded.model).names
    assert identity_as_saved(loaded.model) == identity(floats.model)


@pytest.mark.parametrize("read", [load_model, outline_model])
def test_a_gguf_file_of_floats_has_no_codes_and_is_refused_with_a_way_out(read, tmp_path):
    file = write_gguf(tmp_path / "t.gguf", tiny_llama(), kind=GGMLQuantizationType.F16)

    with pytest.raises(
        ModelError, match="has no linear layer in codes that can be tuned"
    ) as caught:
        read(str(file), weights="codes", device="cpu")

    assert "--weights int8 or int4 makes codes of its weights" in caught.value.hint


def test_a_type_that_cannot_be_read_is_named_with_those_that_can(tmp_path):
    kind = GGMLQuantizationType.Q8_K  # gguf itself has no reader of it
    size = gguf.GGML_QUANT_SIZES[kind][1]
    file = write_gguf(
        tmp_path / "t.gguf",
        wide_llama(),
        kind=kind,
        blocks=lambda name, shape: np.zeros((shape[0], size), np.uint8),
    )

    with pytest.raises(ModelError, match="has blocks of type Q8_K, which cannot be") as caught:
        codes_in(file)

    assert "take a file of another type, such as Q8_0, Q4_0, Q4_1" in caught.value.hint


@pytest.mark.parametrize("cut", [2000, -1])
def test_a_gguf_file_that_was_cut_short_is_refused(cut, tmp_path):
    file = write_gguf(tmp_path / "t.gguf", tiny_llama(), kind=GGMLQuantizationType.Q8_0)
    file.write_bytes(file.read_bytes()[:cut])

    with pytest.raises(ModelError, match="it is damaged or cut short"):
        codes_in(file)


def test_a_scale_that_is_no_number_is_refused_by_name(tmp_path):
    file = write_gguf(tmp_path / "t.gguf", tiny_llama(), kind=GGMLQuantizationType.Q8_0)
    at = {one.name: one.data_offset for one in gguf.GGUFReader(file).tensors}
    data = bytearray(file.read_bytes())
    first = int(at["blk.0.ffn_up.weight"])
    data[first : first + 2] = b"\xff\x7e"
    file.write_bytes(data)

    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.scale holds NaN, expected"):
        codes_in(file)


def test_a_gguf_file_that_lacks_a_tensor_is_refused_by_name(tmp_path, monkeypatch):
    model = tiny_llama()
    plain = model.named_parameters
    lacking = lambda: ((name, one) for name, one in plain() if name != GATE)  # noqa: E731
    monkeypatch.setattr(model, "named_parameters", lacking)
    file = write_gguf(tmp_path / "t.gguf", model, kind=GGMLQuantizationType.Q8_0)

    with pytest.raises(ModelError, match=rf"lacks {re.escape(GATE)}, which its config calls for"):
        codes_in(file)


# Quantized here


@pytest.mark.parametrize(
    ("weights", "quantize"), [("int8", quantize_int8), ("int4", quantize_int4)]
)
def test_linear_layers_of_a_float_model_become_codes_and_nothing_else(weights, quantize):
    floats = load_model("embedded", dtype="float32", device="cpu").model

    loaded = load_model("embedded", dtype="float32", device="cpu", weights=weights)

    coded = coded_of(loaded.model)
    for name, parameter in floats.named_parameters():
        if name.split(".")[-2] in LINEAR:
            assert coded.pop(name).values().equal(quantize(parameter).dequantized()), name
        else:
            assert loaded.model.get_parameter(name).equal(parameter), name
    assert not coded
    head = loaded.model.get_output_embeddings()
    assert head.weight is loaded.model.get_input_embeddings().weight
    assert not isinstance(head, Coded)
    levels = {"int8": 255, "int4": 16}[weights]
    assert loaded.notes[0].startswith(f"codes of {levels} levels, ")


def test_a_gguf_file_quantized_here_is_dequantized_to_float32_first(tmp_path):
    file = write_gguf(tmp_path / "t.gguf", tiny_llama(), kind=GGMLQuantizationType.Q4_0)
    floats = floats_in(file).model

    loaded = load_model(str(file), weights="int8", dtype="bfloat16", device="cpu")

    coded = coded_of(loaded.model)[GATE]
    assert coded.values().equal(quantize_int8(floats.get_parameter(GATE)).dequantized())
    assert loaded.model.dtype == loaded.dtype == torch.bfloat16
    assert {p.dtype for p in loaded.model.parameters() if p.is_floating_point()} == {torch.bfloat16}


def test_saved_the_codes_are_floats_that_load_as_a_plain_model(tmp_path):
    loaded = load_model("embedded", weights="int4", dtype="float32", device="cpu")

    save_model(loaded, tmp_path / "out")

    again = load_model(str(tmp_path / "out"), device="cpu")
    assert identity(again.model) == identity_as_saved(loaded.model)
    assert logits_of(again.model).allclose(logits_of(loaded.model), atol=1e-5)


def test_the_scales_are_part_of_the_identity_and_of_what_was_saved():
    model = load_model("embedded", weights="int8", dtype="float32", device="cpu").model
    before, saved = identity(model), identity_as_saved(model)

    next(iter(coded_of(model).values())).scale[0] *= 2

    assert identity(model) != before
    assert identity_as_saved(model) != saved


# Folders that are quantized


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Folders with the tiny model as GPTQ and bitsandbytes int8 hold it, and as it is."""
    folder = tmp_path_factory.mktemp("packed")
    write_model(folder / "float")
    for name, config in (("gptq", GPTQ), ("int8", INT8)):
        write_packed(folder / "float", folder / name, config)
    return folder


@pytest.fixture
def copy_of(packed, tmp_path):
    return lambda name: shutil.copytree(packed / name, tmp_path / name)


@pytest.mark.parametrize("form", ["gptq", "int8"])
def test_codes_of_a_folder_are_the_weights_that_were_packed(form, packed):
    loaded = codes_in(packed / form)

    expected = packed_values(packed / form)
    assert coded_of(loaded.model).keys() == expected.keys()
    for name, one in coded_of(loaded.model).items():
        assert torch.allclose(one.values(), expected[name], rtol=1e-6, atol=1e-7), name
    floats = load_model(str(packed / "float"), device="cpu").model
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert loaded.model.get_parameter(name).equal(floats.get_parameter(name))
    assert logits_of(loaded.model).isfinite().all()
    assert loaded.folder == packed / form


@both
@pytest.mark.parametrize("form", ["gptq", "int8"])
def test_a_folder_of_codes_without_the_option_is_refused_and_told_of_it(form, read, packed):
    with pytest.raises(ModelError, match=r"is quantized \(quantization_config: ") as caught:
        read(str(packed / form), device="cpu")

    assert caught.value.hint.startswith("--weights codes tunes its codes")


@both
def test_a_folder_of_floats_with_the_option_is_refused_and_told_what_makes_codes(read, packed):
    with pytest.raises(ModelError, match="has floats, expected a quantized checkpoint") as caught:
        read(str(packed / "float"), weights="codes", device="cpu")

    assert caught.value.hint == "--weights int8 or int4 makes codes of them"


@both
def test_four_bits_of_bitsandbytes_are_refused_as_their_steps_are_not_even(read, copy_of):
    folder = copy_of("int8")
    scheme = INT8 | {"load_in_8bit": False, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    change_config(folder, quantization_config=scheme)

    with pytest.raises(ModelError, match="bitsandbytes to nf4, whose steps are not even"):
        read(str(folder), weights="codes", device="cpu")


@both
def test_a_checkpoint_in_activation_order_is_refused(read, copy_of):
    folder = copy_of("gptq")
    change_config(folder, quantization_config=GPTQ | {"desc_act": True})
    change_weights(
        folder, lambda all: [one.copy_(one.flip(0)) for key, one in all.items() if "g_idx" in key]
    )

    with pytest.raises(ModelError, match="inputs of a group are not consecutive") as caught:
        read(str(folder), weights="codes", device="cpu")

    assert "desc_act = false" in caught.value.hint


def test_a_folder_that_lacks_a_parameter_is_refused_by_name(copy_of):
    folder = copy_of("gptq")
    change_weights(folder, lambda all: all.pop("model.norm.weight"))

    with pytest.raises(ModelError, match=r"lacks model\.norm\.weight, which its config calls for"):
        codes_in(folder)


def test_a_matrix_of_another_shape_than_the_config_calls_for_is_refused(copy_of):
    folder = copy_of("int8")
    change_config(folder, intermediate_size=128)

    with pytest.raises(ModelError, match=r"has shape \(\d+, \d+\), its config expects \(\d+, \d+"):
        codes_in(folder)


# Outlines


def outlined(id, weights):
    options = {"weights": weights, "device": "cpu"}
    return shape_of(outline_model(id, **options).model), shape_of(load_model(id, **options).model)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_outline_of_a_model_quantized_here_has_the_shape_of_the_loaded_one(weights):
    outline, loaded = outlined("embedded", weights)

    assert outline == loaded
    assert loaded.codes.keys() == loaded.coded.keys()
    least = {"int8": 1, "int4": 0.5}[weights] * sum(
        np.prod(loaded.parameters[n]) for n in loaded.codes
    )
    assert sum(loaded.codes.values()) == least < sum(loaded.coded.values())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
def test_the_outline_of_codes_in_a_gguf_file_has_the_shape_of_the_loaded_one(kind, tied, tmp_path):
    kinds = {GATE: GGMLQuantizationType.F16}
    file = write_gguf(
        tmp_path / "t.gguf", tiny_llama(tied=tied), kind=GGMLQuantizationType[kind], kinds=kinds
    )

    outline, loaded = outlined(str(file), "codes")

    assert outline == loaded
    assert loaded.coded.keys() - loaded.codes.keys() == (
        {"model.embed_tokens.weight"} if tied else {"model.embed_tokens.weight", "lm_head.weight"}
    )


@pytest.mark.parametrize("form", ["gptq", "int8"])
def test_the_outline_of_a_quantized_folder_has_the_shape_of_the_loaded_one(form, packed):
    outline, loaded = outlined(str(packed / form), "codes")

    assert outline == loaded
    assert json.loads((packed / form / "config.json").read_text())["quantization_config"]
