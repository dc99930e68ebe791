"""Models from .gguf files."""

import gguf
import pytest
import torch
from tiny_models import CHAT_TEMPLATE, same_weights, tiny_qwen2, tiny_tokenizer, write_gguf

from esft.errors import ModelError
from esft.models.device import choose_gguf_dtype
from esft.models.gguf_file import read_once
from esft.models.load import load_model

TEXT = "Héllo, the cab!<|im_end|>\n"
Q8_0 = gguf.GGMLQuantizationType.Q8_0


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_gives_plain_weights_in_the_dtype_asked_for(tied, tmp_path):
    model = tiny_qwen2(tied=tied)
    file = write_gguf(tmp_path / "t.gguf", model)

    loaded = load_model(str(file), dtype="float32")

    assert same_weights(loaded.model, model)
    assert loaded.source == str(file)
    assert loaded.notes == ("t.gguf: weights dequantized to float32, as asked for",)
    assert not hasattr(loaded.model.config, "quantization_config")
    assert not getattr(loaded.model, "is_quantized", False)


def test_quantized_blocks_are_dequantized(tmp_path):
    model = tiny_qwen2()
    file = write_gguf(tmp_path / "t.gguf", model, kind=Q8_0)

    loaded = load_model(str(file), dtype="float32").model

    for (name, parameter), original in zip(
        loaded.named_parameters(), model.parameters(), strict=True
    ):
        expected = original.numpy()
        if parameter.dim() == 2:
            expected = gguf.quants.dequantize(gguf.quants.quantize(expected, Q8_0), Q8_0)
        assert parameter.equal(torch.from_numpy(expected)), name


def test_gguf_weights_take_the_dtype_of_the_device_and_say_so(tmp_path):
    dtype, why = choose_gguf_dtype(torch.device("cpu"))
    file = write_gguf(tmp_path / "t.gguf")

    loaded = load_model(str(file), device="cpu")

    assert {p.dtype for p in loaded.model.parameters()} == {dtype}
    assert str(dtype).removeprefix("torch.") in loaded.notes[0]
    assert why in loaded.notes[0]


def test_the_tokenizer_of_a_gguf_file_wins_over_one_that_lies_beside_it(tmp_path):
    file = write_gguf(tmp_path / "t.gguf")
    tiny_tokenizer(chat_template=False).save_pretrained(tmp_path)
    vocabulary = tmp_path / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace('"ab"', '"ba"'))

    tokenizer = load_model(str(file)).tokenizer

    assert tokenizer(TEXT).input_ids == tiny_tokenizer()(TEXT).input_ids
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_a_gguf_file_is_parsed_once_and_its_tensors_are_named_once(monkeypatch, tmp_path):
    file = write_gguf(tmp_path / "t.gguf")
    opened, named = [], []
    plain_map = gguf.get_tensor_name_map

    class Counted(gguf.GGUFReader):
        def __init__(self, path):
            opened.append(path)
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    monkeypatch.setattr(
        gguf, "get_tensor_name_map", lambda *which: named.append(which) or plain_map(*which)
    )

    load_model(str(file))

    assert opened == [str(file)]
    assert len(named) == 1
    assert gguf.GGUFReader is Counted


class ThatNeedsAMemmap(gguf.GGUFReader):
    def __init__(self, path):
        super().__init__(path)
        self.name = self.data.filename


@pytest.mark.parametrize("reader", [ThatNeedsAMemmap, lambda path: ThatNeedsAMemmap(path)])
def test_a_gguf_reader_of_another_kind_reads_in_its_own_way(reader, monkeypatch, tmp_path):
    model = tiny_qwen2()
    file = write_gguf(tmp_path / "t.gguf", model)
    monkeypatch.setattr(gguf, "GGUFReader", reader)

    loaded = load_model(str(file), dtype="float32")

    assert same_weights(loaded.model, model)
    assert gguf.GGUFReader is reader


def test_a_gguf_package_without_its_map_of_names_is_left_as_it_is(monkeypatch):
    monkeypatch.delattr(gguf, "get_tensor_name_map")
    reader = gguf.GGUFReader

    with read_once():
        inside = gguf.GGUFReader

    assert inside is not reader
    assert gguf.GGUFReader is reader
    assert not hasattr(gguf, "get_tensor_name_map")


DAMAGED = r"is not a \.gguf file, or it is damaged or cut short"


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (lambda good: good[:0], DAMAGED, "copy or download it again"),
        (lambda good: good[:2000], DAMAGED, "copy or download it again"),
        (lambda good: good[:-1], DAMAGED, "copy or download it again"),
        (lambda good: b"<html>" * 1000, DAMAGED, "copy or download it again"),
        (
            lambda good: good.replace(b"qwen2", b"plamo"),
            "architecture plamo is not supported",
            "take the model's safetensors",
        ),
    ],
)
def test_a_gguf_file_that_cannot_be_read_is_refused(content, message, hint, tmp_path):
    file = write_gguf(tmp_path / "t.gguf")
    file.write_bytes(content(file.read_bytes()))

    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(file))

    assert caught.value.hint == hint
