"""The base weights on the disk: the very bits of the parameters, in no memory of their own."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import gguf
import pytest
import torch
from bases import cache_file, cut_off, flip_the_last_bit, mapped_base, same_bits
from loopback_hub import run_python
from safetensors.torch import load_file
from tiny_models import change_weights, tiny_llama, tiny_qwen2, write_gguf, write_model

import esft.models.base_file as base_weights
from esft.engine.weights import identity
from esft.models.base_file import map_base
from esft.models.load import load_model

LARGE = 160_000  # a vocabulary of 20 MB of embeddings
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MAP_A_HUB_MODEL = """
import json
from esft.models.base_file import map_base
from esft.engine.weights import identity
from esft.models.load import load_model

loaded = load_model("org/tiny")
names = [name for name, _ in loaded.model.named_parameters()]
mapped = map_base(loaded, names, identity(loaded.model))
same = all(loaded.model.get_parameter(name).view(-1).equal(mapped.tensors[name]) for name in names)
print(json.dumps({"source": loaded.source, "files": [str(file) for file in mapped.files],
                  "same": same}))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder of a test, not there yet."""
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in float32, tied."""
    return write_model(tmp_path / "tiny")


@pytest.fixture
def shards(folder):
    """A checkpoint in several files of weights, untied."""
    tiny_llama(tied=False).save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    return folder


# From the checkpoint's own files


@pytest.mark.parametrize(
    ("make", "tied", "dtype"),
    [
        (tiny_llama, True, torch.float32),
        (tiny_llama, False, torch.float16),
        (tiny_qwen2, True, torch.bfloat16),
    ],
)
def test_a_checkpoint_is_mapped_itself_and_holds_the_bits_of_the_parameters(
    make, tied, dtype, tmp_path, cache
):
    loaded = load_model(str(write_model(tmp_path / "m", make(tied=tied, dtype=dtype))))

    mapped = mapped_base(loaded)

    assert same_bits(mapped, loaded.model)
    assert list(mapped.files) == [tmp_path / "m" / "model.safetensors"]
    assert mapped.note == f"base weights mapped from {tmp_path / 'm' / 'model.safetensors'}"
    assert not cache.exists()


def test_a_checkpoint_in_shards_is_mapped_itself(shards, cache):
    loaded = load_model(str(shards))

    mapped = mapped_base(loaded)

    assert same_bits(mapped, loaded.model)
    assert len(mapped.files) > 1
    assert {file.name for file in mapped.files} == {p.name for p in shards.glob("*.safetensors")}
    assert mapped.note == f"base weights mapped from {len(mapped.files)} files in {shards}"
    assert not cache.exists()


def test_a_model_of_the_hub_is_mapped_from_its_local_cache(tmp_path, cache):
    repo = tmp_path / "home" / "hub" / "models--org--tiny"
    write_model(repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)

    result = run_python(
        MAP_A_HUB_MODEL, endpoint="http://127.0.0.1:9", home=tmp_path / "home", offline=True
    )

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "source": f"org/tiny@{COMMIT}",
        "files": [str(repo / "snapshots" / COMMIT / "model.safetensors")],
        "same": True,
    }
    assert not cache.exists()


def test_only_the_parameters_and_the_shards_that_are_asked_for_are_mapped(shards):
    loaded = load_model(str(shards))

    mapped = map_base(loaded, ["model.norm.weight"], identity(loaded.model))

    assert list(mapped.tensors) == ["model.norm.weight"]
    assert len(mapped.files) == 1


def test_tuning_the_parameters_does_not_change_what_is_mapped(folder):
    loaded = load_model(str(folder))
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}

    mapped = mapped_base(loaded)
    for parameter in loaded.model.parameters():
        parameter.add_(1.0)

    assert all(mapped.tensors[name].equal(p.view(-1)) for name, p in before.items())
    assert mapped.changed() is None


# From the cache, where the checkpoint holds something else


def test_a_gguf_file_is_mapped_from_the_cache(tmp_path, cache):
    path = write_gguf(tmp_path / "t.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    loaded = load_model(str(path), dtype="float16")

    mapped = mapped_base(loaded)

    file = cache / "bases" / f"{identity(loaded.model)}.safetensors"
    assert same_bits(mapped, loaded.model)
    assert list(mapped.files) == [file]
    assert set(load_file(file)) == {name for name, _ in loaded.model.named_parameters()}
    assert re.fullmatch(
        rf"base weights written once to {re.escape(str(file))} \(0\.0\d MB\), since the model does "
        "not come from safetensors files",
        mapped.note,
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_checkpoint_in_another_dtype_than_loaded_is_mapped_from_the_cache(dtype, folder):
    loaded = load_model(str(folder), dtype=dtype)

    mapped = mapped_base(loaded)

    assert same_bits(mapped, loaded.model)
    assert list(mapped.files) == [cache_file(loaded)]
    assert f"is torch.float32 on the disk, and torch.{dtype} loaded" in mapped.note


def test_a_tied_weight_under_its_other_name_is_mapped_from_the_cache(folder):
    change_weights(
        folder, lambda all: all.update({"lm_head.weight": all.pop("model.embed_tokens.weight")})
    )
    loaded = load_model(str(folder))

    mapped = mapped_base(loaded)

    assert same_bits(mapped, loaded.model)
    assert list(mapped.files) == [cache_file(loaded)]
    assert f"model.embed_tokens.weight is not in {folder}" in mapped.note


@pytest.mark.parametrize("place", [0, -1], ids=["first element", "last element"])
def test_bits_are_compared_not_values(place, folder):
    change_weights(folder, lambda all: all["model.embed_tokens.weight"].view(-1)[place].zero_())
    loaded = load_model(str(folder))
    loaded.model.get_parameter("model.embed_tokens.weight").view(-1)[place] = -0.0

    mapped = mapped_base(loaded)

    assert same_bits(mapped, loaded.model)
    assert list(mapped.files) == [cache_file(loaded)]
    assert "model.embed_tokens.weight has other bits on the disk than loaded" in mapped.note


def test_every_piece_of_a_large_parameter_is_compared(folder, monkeypatch):
    monkeypatch.setattr(base_weights, "_PIECE", 4096)
    loaded = load_model(str(folder))
    loaded.model.get_parameter("model.embed_tokens.weight").view(-1)[4000] += 1.0

    mapped = mapped_base(loaded)

    assert same_bits(mapped, loaded.model)
    assert list(mapped.files) == [cache_file(loaded)]


def test_a_parameter_that_was_loaded_in_another_shape_is_mapped_from_the_cache(folder):
    loaded = load_model(str(folder))
    weight = loaded.model.model.layers[0].self_attn.k_proj.weight
    weight.data = weight.data.view(32, 16)

    mapped = mapped_base(loaded)

    assert same_bits(mapped, loaded.model)
    assert "is (16, 32) on the disk, and (32, 16) loaded" in mapped.note


def test_a_checkpoint_whose_tensors_are_not_aligned_is_mapped_from_the_cache(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = whole[8 : 8 + length], whole[8 + length :]
    path.write_bytes((length + 1).to_bytes(8, "little") + header + b" " + data)
    loaded = load_model(str(folder))

    mapped = mapped_base(loaded)

    assert same_bits(mapped, loaded.model)
    assert list(mapped.files) == [cache_file(loaded)]
    assert all(tensor.data_ptr() % 4 == 0 for tensor in mapped.tensors.values())


# No memory of its own


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
@pytest.mark.parametrize("where", ["checkpoint", "cache"])
def test_what_is_mapped_takes_no_private_memory(where, tmp_path):
    folder = write_model(tmp_path / "m", tiny_llama(vocab_size=LARGE, dtype=torch.float32))
    loaded = load_model(str(folder), dtype="float16" if where == "cache" else None)
    with open(folder / "model.safetensors", "rb+") as file:
        os.fsync(file.fileno())  # a page that is not on the disk yet counts as dirty

    mapped = mapped_base(loaded)

    largest = mapped.tensors["model.embed_tokens.weight"]
    mapping = mapping_of(largest.data_ptr())
    assert mapping["file"] == str(next(iter(mapped.files)))
    assert mapping["Rss"] >= largest.nbytes  # all of it has been compared
    assert mapping["Private_Dirty"] == mapping["Anonymous"] == 0


def mapping_of(address):
    """Figures in bytes, and the file, of this process's memory mapping that holds an address."""
    blocks = re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M
    )
    for head, *lines in (block.splitlines() for block in blocks if block):
        start, end = (int(part, 16) for part in head.split()[0].split("-"))
        if start <= address < end:
            sizes = (re.match(r"(\w+): +(\d+) kB", line) for line in lines)
            figures = {size[1]: int(size[2]) * 1024 for size in sizes if size}
            return {"file": "".join(head.split()[5:]), **figures}
    raise AssertionError("the address is in no mapping")


# A base that changes under a run


def replace_by_a_copy(path):
    shutil.copy2(path, path.with_name("copy"))
    os.replace(path.with_name("copy"), path)


def write_as_much_with_the_old_time(path):
    before = path.stat()
    flip_the_last_bit(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def cut_off_with_the_old_time(path):
    before = path.stat()
    cut_off(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch(path):
    os.utime(path)


CHANGES = [
    replace_by_a_copy,
    write_as_much_with_the_old_time,
    cut_off_with_the_old_time,
    touch,
    Path.unlink,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_mapped_file_that_changed_is_named(change, folder):
    mapped = mapped_base(load_model(str(folder)))
    untouched = mapped.changed()

    file = next(iter(mapped.files))
    change(file)

    assert untouched is None
    assert mapped.changed() == file


def test_of_several_shards_the_one_that_changed_is_named(shards):
    mapped = mapped_base(load_model(str(shards)))

    last = list(mapped.files)[-1]
    touch(last)

    assert mapped.changed() == last
