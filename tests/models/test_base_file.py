"""The base weights on the disk: the very bits of the parameters, in no memory of their own."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from threading import Barrier, Thread

import gguf
import pytest
import torch
from damage import cut_off, flip_the_last_bit
from loopback_hub import run_python
from safetensors.torch import load_file, save_file
from tiny_models import change_weights, tiny_llama, tiny_qwen2, write_gguf, write_model

import esft.models.base_file as base_weights
from esft.engine import Weights
from esft.engine.weights import identity
from esft.errors import AnchorError
from esft.models.base_file import base_path, map_base
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


def mapped_base(loaded):
    """Map all parameters of a model."""
    return map_base(loaded, Weights(loaded.model).names, identity(loaded.model))


def cache_file(loaded):
    return base_path(identity(loaded.model))


def same_bits(mapped, model):
    """Whether what is mapped is every parameter of `model`, tied ones once, bit for bit."""
    parameters = dict(model.named_parameters())
    return list(mapped.tensors) == list(parameters) and all(
        mapped.tensors[name].shape == (parameter.numel(),)
        and mapped.tensors[name].dtype == parameter.dtype
        and bits(mapped.tensors[name]).equal(bits(parameter))
        for name, parameter in parameters.items()
    )


def bits(tensor):
    return tensor.detach().flatten().view(torch.uint8)


def content(folder):
    return sorted(
        path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


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


# The cache: written once, whole or not at all


@pytest.fixture
def loaded(tmp_path):
    """A model that needs the cache, since it comes from a .gguf file."""
    return load_model(str(write_gguf(tmp_path / "tiny.gguf")), dtype="bfloat16")


def test_the_cache_is_written_once_and_found_again(loaded):
    first = mapped_base(loaded)
    again = mapped_base(loaded)

    assert same_bits(again, loaded.model)
    assert again.files == first.files
    assert first.note.startswith("base weights written once to ")
    assert again.note.startswith("base weights mapped from ")


def flip_a_bit_of_the_header(path):
    whole = bytearray(path.read_bytes())
    whole[9] ^= 1
    path.write_bytes(whole)


def rename_a_tensor(path):
    tensors = load_file(path)
    tensors["another.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, path)


DAMAGES = [cut_off, flip_the_last_bit, flip_a_bit_of_the_header, rename_a_tensor]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_file_is_written_anew(damage, loaded):
    mapped_base(loaded)
    good = cache_file(loaded).read_bytes()
    damage(cache_file(loaded))

    mapped = mapped_base(loaded)

    assert same_bits(mapped, loaded.model)
    assert cache_file(loaded).read_bytes() == good
    assert content(cache_file(loaded).parent) == [cache_file(loaded).name]
    assert "written anew (it was damaged) to" in mapped.note


def test_an_interrupted_write_leaves_nothing(loaded, cache, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            mapped_base(loaded)

    assert content(cache) == []
    assert same_bits(mapped_base(loaded), loaded.model)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_disk_that_fills_up_while_writing_is_said_and_leaves_nothing(loaded, cache):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(AnchorError, match=r"cannot be written: .*File too large") as caught:
            mapped_base(loaded)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert str(cache_file(loaded)) in str(caught.value)
    assert caught.value.hint == (
        "make room on the disk, set ESFT_CACHE_DIR to a folder on another disk, or keep the base "
        'weights in memory: [anchor] store = "cpu"'
    )
    assert content(cache) == []


def test_too_little_room_is_said_before_anything_is_written(loaded, cache, monkeypatch):
    usage = shutil.disk_usage(cache.parent)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    with pytest.raises(
        AnchorError, match=r"bases has 0\.01 MB free, expected 0\.0\d MB for the base weights"
    ) as caught:
        mapped_base(loaded)

    assert "ESFT_CACHE_DIR" in caught.value.hint
    assert content(cache) == []


def test_a_cache_folder_that_cannot_be_made_is_said(loaded, cache):
    cache.write_text("a file in its place")

    with pytest.raises(AnchorError, match=r"cannot be written: Not a directory") as caught:
        mapped_base(loaded)

    assert caught.value.hint.startswith("check that the folder exists and is yours, set ESFT_")


@pytest.mark.parametrize("start", ["empty", "damaged"])
def test_two_runs_that_write_at_once_do_not_disturb_each_other(start, loaded):
    if start == "damaged":
        mapped_base(loaded)
        flip_the_last_bit(cache_file(loaded))
    together, results = Barrier(4), []

    def run():
        together.wait()
        results.append(mapped_base(loaded))

    threads = [Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [same_bits(mapped, loaded.model) for mapped in results] == [True] * 4
    assert [mapped.changed() for mapped in results] == [None] * 4
    assert content(cache_file(loaded).parent) == [cache_file(loaded).name]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_only_its_owner_may_write_to_the_file(loaded):
    before = os.umask(0)
    try:
        mapped_base(loaded)
    finally:
        os.umask(before)

    assert cache_file(loaded).stat().st_mode & 0o777 == 0o644


def test_what_killed_writers_left_is_removed_before_the_next_one_writes(loaded, cache):
    (cache / "bases").mkdir(parents=True)
    (cache / "bases" / ".another.safetensors.1234abcd.partial").write_text("half of a model")

    mapped_base(loaded)

    assert content(cache) == [cache_file(loaded).name]


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


CHANGES = [
    replace_by_a_copy,
    write_as_much_with_the_old_time,
    cut_off_with_the_old_time,
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
