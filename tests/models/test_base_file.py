"""The base weights on the disk: the very bits of the parameters, in no memory of their own."""

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
from safetensors.torch import load_file, save_file
from tiny_models import change_weights, tiny_llama, tiny_qwen2, write_gguf, write_model

from esft.engine import Weights
from esft.engine.weights import identity
from esft.errors import AnchorError
from esft.models.base_file import base_path, map_base
from esft.models.load import load_model

LARGE = 160_000  # a vocabulary of 20 MB of embeddings, compared in several pieces
EMBEDDINGS = "model.embed_tokens.weight"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder of a test, not there yet."""
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
        and mapped.tensors[name].view(torch.uint8).equal(parameter.flatten().view(torch.uint8))
        for name, parameter in parameters.items()
    )


def content(folder):
    files = (path.name for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in files if name != ".lock")


@pytest.fixture
def shards(folder):
    """A checkpoint in several files of weights, untied."""
    tiny_llama(tied=False).save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink()
    return folder


# From the checkpoint's own files


@pytest.mark.parametrize(
    ("make", "tied", "dtype"),
    [(tiny_llama, False, torch.float16), (tiny_qwen2, True, torch.bfloat16)],
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


def test_of_shards_those_are_mapped_that_hold_what_is_asked_for(shards, cache):
    loaded = load_model(str(shards))

    mapped = mapped_base(loaded)
    one = map_base(loaded, ["model.norm.weight"], identity(loaded.model))

    assert same_bits(mapped, loaded.model)
    assert set(mapped.files) == set(shards.glob("*.safetensors"))
    assert mapped.note == f"base weights mapped from {len(mapped.files)} files in {shards}"
    assert (list(one.tensors), len(one.files)) == (["model.norm.weight"], 1)
    assert not cache.exists()


def test_tuning_the_parameters_does_not_change_what_is_mapped(folder):
    loaded = load_model(str(folder))
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}

    mapped = mapped_base(loaded)
    for parameter in loaded.model.parameters():
        parameter.add_(1.0)

    assert all(mapped.tensors[name].equal(p.view(-1)) for name, p in before.items())
    assert mapped.changed() is None


# From the cache, where the checkpoint holds something else


def a_gguf_file(folder):
    path = write_gguf(folder / "t.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    return load_model(str(path), dtype="float16")


def another_dtype(folder):
    return load_model(str(folder), dtype="bfloat16")


def a_tied_weight_under_its_other_name(folder):
    change_weights(folder, lambda all: all.update({"lm_head.weight": all.pop(EMBEDDINGS)}))
    return load_model(str(folder))


def another_zero_at_the_end(folder):
    write_model(folder, tiny_llama(vocab_size=LARGE))
    change_weights(folder, lambda all: all[EMBEDDINGS].view(-1)[-1].zero_())
    loaded = load_model(str(folder))
    loaded.model.get_parameter(EMBEDDINGS).view(-1)[-1] = -0.0
    return loaded


def tensors_not_aligned(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = whole[8 : 8 + length], whole[8 + length :]
    path.write_bytes((length + 1).to_bytes(8, "little") + header + b" " + data)
    return load_model(str(folder))


REASONS = [
    (a_gguf_file, "the model does not come from safetensors files"),
    (another_dtype, f"{EMBEDDINGS} is torch.float32 on the disk, and torch.bfloat16 loaded"),
    (a_tied_weight_under_its_other_name, f"{EMBEDDINGS} is not in "),
    (another_zero_at_the_end, f"{EMBEDDINGS} has other bits on the disk than loaded"),
    (tensors_not_aligned, "is not aligned in its file"),
]


@pytest.mark.parametrize(("load", "reason"), REASONS)
def test_what_the_checkpoint_does_not_hold_is_mapped_from_the_cache(load, reason, folder, cache):
    loaded = load(folder)

    mapped = mapped_base(loaded)

    assert same_bits(mapped, loaded.model)
    assert list(mapped.files) == [cache / "bases" / f"{identity(loaded.model)}.safetensors"]
    said = rf"base weights written once to {re.escape(str(cache_file(loaded)))} \([\d.]+ [kM]B\)"
    assert re.match(f"{said}, since .*{re.escape(reason)}", mapped.note)
    assert all(tensor.data_ptr() % tensor.itemsize == 0 for tensor in mapped.tensors.values())


# The cache: written once, whole or not at all


@pytest.fixture
def loaded(tmp_path):
    """A model that needs the cache, since it comes from a .gguf file."""
    return load_model(str(write_gguf(tmp_path / "tiny.gguf")), dtype="bfloat16")


def test_the_cache_is_written_once_and_found_again_for_other_parameters_too(loaded):
    first = map_base(loaded, ["model.norm.weight"], identity(loaded.model))
    again = mapped_base(loaded)

    assert list(first.tensors) == ["model.norm.weight"]
    assert again.files == first.files
    assert same_bits(again, loaded.model)
    assert first.note.startswith("base weights written once to ")
    assert again.note.startswith("base weights mapped from ")


def rename_a_tensor(path):
    tensors = load_file(path)
    tensors["another.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, path)


@pytest.mark.parametrize("damage", [cut_off, flip_the_last_bit, rename_a_tensor])
def test_a_damaged_cache_file_is_written_anew(damage, loaded):
    mapped_base(loaded)
    good = cache_file(loaded).read_bytes()
    damage(cache_file(loaded))

    mapped = mapped_base(loaded)

    assert same_bits(mapped, loaded.model)
    assert cache_file(loaded).read_bytes() == good
    assert content(cache_file(loaded).parent) == [cache_file(loaded).name]
    assert "written anew (it was damaged) to" in mapped.note


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
        AnchorError, match=r"bases has 10\.00 kB free, expected [\d.]+ kB for the base weights"
    ) as caught:
        mapped_base(loaded)

    assert "ESFT_CACHE_DIR" in caught.value.hint
    assert content(cache) == []


@pytest.mark.parametrize("start", ["empty", "damaged"])
def test_runs_that_write_at_once_do_not_disturb_each_other(start, loaded):
    if start == "damaged":
        mapped_base(loaded)
        flip_the_last_bit(cache_file(loaded))
    together, results = Barrier(4), []

    def run():
        together.wait()
        results.append(mapped_base(loaded))

    runs = [Thread(target=run) for _ in range(4)]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()

    assert [same_bits(mapped, loaded.model) for mapped in results] == [True] * 4
    assert [mapped.changed() for mapped in results] == [None] * 4
    assert content(cache_file(loaded).parent) == [cache_file(loaded).name]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_only_its_owner_may_write_and_what_killed_writers_left_is_gone(loaded, cache):
    left = cache / "bases" / ".another.safetensors.1234abcd.partial"
    left.mkdir(parents=True)
    (left / ".lock").touch()
    (left / "new").write_text("half of a model")
    before = os.umask(0)
    try:
        mapped_base(loaded)
    finally:
        os.umask(before)

    assert cache_file(loaded).stat().st_mode & 0o777 == 0o644
    assert content(cache) == [cache_file(loaded).name]


# No memory of its own


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
@pytest.mark.parametrize("dtype", [None, "float16"], ids=["checkpoint", "cache"])
def test_what_is_mapped_takes_no_private_memory(dtype, tmp_path):
    folder = write_model(tmp_path / "m", tiny_llama(vocab_size=LARGE))
    loaded = load_model(str(folder), dtype=dtype)
    with open(folder / "model.safetensors", "rb+") as file:
        os.fsync(file.fileno())  # a page that is not on the disk yet counts as dirty

    mapped = mapped_base(loaded)

    largest = mapped.tensors[EMBEDDINGS]
    mapping = mapping_of(largest.data_ptr())
    assert mapping["file"] == str(next(iter(mapped.files)))
    assert mapping["Rss"] >= largest.nbytes  # all of it has been compared
    assert mapping["Private_Dirty"] == mapping["Anonymous"] == 0


def mapping_of(address):
    """Figures in bytes, and the file, of this process's memory mapping that holds an address."""
    text = Path("/proc/self/smaps").read_text()
    for block in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.M)[1:]:
        head, _, lines = block.partition("\n")
        start, end = (int(part, 16) for part in head.split()[0].split("-"))
        if start <= address < end:
            sizes = re.findall(r"^(\w+): +(\d+) kB", lines, flags=re.M)
            return {"file": head.split()[-1]} | {key: int(size) * 1024 for key, size in sizes}
    raise AssertionError("the address is in no mapping")


# A base that changes under a run


def replace_by_a_copy(path):
    shutil.copy2(path, path.with_name("copy"))
    os.replace(path.with_name("copy"), path)


def write_as_much_a_moment_later(path):
    before = path.stat()
    flip_the_last_bit(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def cut_off_with_the_old_time(path):
    before = path.stat()
    cut_off(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = [replace_by_a_copy, write_as_much_a_moment_later, cut_off_with_the_old_time, Path.unlink]


@pytest.mark.parametrize("change", CHANGES)
def test_of_the_mapped_files_the_one_that_changed_is_named(change, shards):
    mapped = mapped_base(load_model(str(shards)))
    untouched = mapped.changed()
    last = list(mapped.files)[-1]

    change(last)

    assert untouched is None
    assert mapped.changed() == last
