"""A .gguf file written again is the same file but for what was to change."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from tiny_models import tiny_llama, write_gguf

from esft.errors import ModelError, RunError
from esft.models.gguf_copy import copy_gguf

GATE = "blk.0.ffn_gate.weight"


@pytest.fixture
def source(tmp_path):
    return write_gguf(tmp_path / "base.gguf", tiny_llama(), kind=GGMLQuantizationType.Q4_1)


def tensors_in(file):
    return {one.name: one for one in gguf.GGUFReader(file).tensors}


def metadata_in(file):
    fields = gguf.GGUFReader(file).fields
    return {name: one.contents() for name, one in fields.items() if not name.startswith("GGUF.")}


def test_with_nothing_changed_it_is_the_same_byte_for_byte(source, tmp_path):
    copy_gguf(source, tmp_path / "out.gguf", {}, {})

    assert (tmp_path / "out.gguf").read_bytes() == source.read_bytes()


def two_tensors(file, alignment=None):
    """Write a file whose tensors end between two multiples of its alignment."""
    writer = gguf.GGUFWriter(file, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for name, size in (("one", 5), ("two", 41)):
        writer.add_tensor(name, np.arange(size, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize(("alignment", "found"), [(None, 32), (128, 128)])
def test_tensors_start_at_multiples_of_the_alignment_of_the_file(alignment, found, tmp_path):
    source, out = two_tensors(tmp_path / "base.gguf", alignment), tmp_path / "out.gguf"

    copy_gguf(source, out, {}, {})

    assert out.read_bytes() == source.read_bytes()
    copy_gguf(source, out, {}, {"esft.base": "a key more moves the tensors"})
    assert metadata_in(out) == metadata_in(source) | {"esft.base": "a key more moves the tensors"}
    for name, one in tensors_in(out).items():
        assert one.data_offset % found == 0
        assert np.array_equal(one.data, tensors_in(source)[name].data)
    assert out.stat().st_size % found == 0


def test_keys_are_added_and_take_the_place_of_those_of_their_name(source, tmp_path):
    once, twice = tmp_path / "once.gguf", tmp_path / "twice.gguf"

    copy_gguf(source, once, {}, {"esft.base": "one", "esft.settings": "{}"})
    copy_gguf(once, twice, {}, {"esft.base": "two, ünïcode"})

    before = metadata_in(source)
    assert metadata_in(once) == before | {"esft.base": "one", "esft.settings": "{}"}
    assert metadata_in(twice) == before | {"esft.base": "two, ünïcode", "esft.settings": "{}"}
    for name, one in tensors_in(twice).items():
        assert np.array_equal(one.data, tensors_in(source)[name].data)


def test_other_values_go_into_their_tensor_alone(source, tmp_path):
    other = tensors_in(source)[GATE].data.copy()
    other[3] ^= 1

    copy_gguf(source, tmp_path / "out.gguf", {GATE: lambda: other}, {})

    there = tensors_in(tmp_path / "out.gguf")
    for name, one in tensors_in(source).items():
        assert np.array_equal(there[name].data, other if name == GATE else one.data)
    assert (tmp_path / "out.gguf").stat().st_size == source.stat().st_size


@pytest.mark.parametrize(("kind", "number"), [("F16", 1), ("Q8_0", 7), ("BF16", 32)])
def test_a_tensor_of_another_type_moves_those_behind_it_and_the_file_says_its_type(
    kind, number, source, tmp_path
):
    stored = GGMLQuantizationType[kind]
    values = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    made = {GATE: lambda: gguf.quants.quantize(values, stored)}

    copy_gguf(source, tmp_path / "out.gguf", made, {}, {GATE: kind}, kind)

    there = tensors_in(tmp_path / "out.gguf")
    assert metadata_in(tmp_path / "out.gguf") == (
        metadata_in(source) | {"general.file_type": number}
    )
    assert there[GATE].tensor_type == stored
    again = gguf.quants.dequantize(there[GATE].data, stored)
    assert np.abs(again - values).max() < 0.03
    for name, one in tensors_in(source).items():
        assert name == GATE or np.array_equal(there[name].data, one.data)


def test_a_file_of_another_byte_order_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("one", np.arange(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(ModelError, match="is of another byte order than this machine"):
        copy_gguf(tmp_path / "big.gguf", tmp_path / "out.gguf", {}, {})

    assert not (tmp_path / "out.gguf").exists()


def fail():
    raise KeyboardInterrupt


def test_what_fails_on_the_way_leaves_nothing(source, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        copy_gguf(source, tmp_path / "out.gguf", {GATE: fail}, {})
    with pytest.raises(RunError, match="cannot be written"):
        copy_gguf(source, tmp_path / ("x" * 300), {}, {})

    assert [file.name for file in tmp_path.iterdir()] == ["base.gguf"]
