"""The cache of base weights: written once, whole or not at all."""

import errno
import os
import shutil
import sys
import time
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from bases import bits, cache_file, content, cut_off, flip_the_last_bit, mapped_base, same_bits
from safetensors.torch import load_file, save_file
from tiny_models import write_gguf

import esft.models.base_file as base_weights
from esft.engine.identity import identity
from esft.errors import AnchorError
from esft.files import cache_folder
from esft.models.base_cache import write_base
from esft.models.base_file import map_base
from esft.models.load import load_model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder of a test, not there yet."""
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def loaded(tmp_path):
    """A model that needs the cache, since it comes from a .gguf file."""
    return load_model(str(write_gguf(tmp_path / "tiny.gguf")), dtype="bfloat16")


def test_the_cache_is_written_once_and_found_again(loaded, monkeypatch):
    first = mapped_base(loaded)
    monkeypatch.setattr(base_weights, "write_base", None)  # a second write would fail

    again = mapped_base(loaded)

    assert same_bits(again, loaded.model)
    assert again.stamps == first.stamps
    assert first.note.startswith("base weights written once to ")
    assert again.note.startswith("base weights mapped from ")


def test_a_later_run_on_other_parameters_of_the_model_finds_the_file_too(loaded, monkeypatch):
    first = map_base(loaded, ["model.norm.weight"], identity(loaded.model))
    monkeypatch.setattr(base_weights, "write_base", None)

    again = mapped_base(loaded)

    assert list(first.tensors) == ["model.norm.weight"]
    assert same_bits(again, loaded.model)


def empty(path):
    os.truncate(path, 0)


def flip_a_bit_of_the_header(path):
    whole = bytearray(path.read_bytes())
    whole[9] ^= 1
    path.write_bytes(whole)


def rename_a_tensor(path):
    tensors = load_file(path)
    tensors["another.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, path)


DAMAGES = [cut_off, empty, flip_the_last_bit, flip_a_bit_of_the_header, rename_a_tensor]


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
        with pytest.raises(AnchorError, match=r"cannot be written to .*: File too large") as caught:
            mapped_base(loaded)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert str(cache_file(loaded)) in str(caught.value)
    assert caught.value.hint == (
        "make room, set ESFT_CACHE_DIR to a folder on another disk, or keep the base weights in "
        'memory: [anchor] store = "cpu"'
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

    with pytest.raises(AnchorError, match=r"cannot be written to .*: Not a directory") as caught:
        mapped_base(loaded)

    assert caught.value.hint.startswith("make the folder yours, set ESFT_CACHE_DIR to a folder")


def test_a_disk_that_does_not_keep_what_was_written_is_said(loaded, monkeypatch):
    def write_and_lose(path, parameters):
        write_base(path, parameters)
        flip_the_last_bit(path)

    monkeypatch.setattr(base_weights, "write_base", write_and_lose)

    with pytest.raises(AnchorError, match="does not hold the base weights that were written"):
        mapped_base(loaded)


@pytest.mark.parametrize("start", ["empty", "damaged"])
def test_two_runs_that_write_at_once_do_not_disturb_each_other(start, loaded):
    if start == "damaged":
        mapped_base(loaded)
        flip_the_last_bit(cache_file(loaded))
    together, results = Barrier(4), []

    def run():
        together.wait()
        results.append(mapped_base(loaded))

    runs = [Thread(target=run) for _ in range(4)]
    for each in runs:
        each.start()
    for each in runs:
        each.join()

    assert [same_bits(mapped, loaded.model) for mapped in results] == [True] * 4
    assert [mapped.changed() for mapped in results] == [None] * 4
    assert content(cache_file(loaded).parent) == [cache_file(loaded).name]


def test_a_file_that_appears_while_another_is_written_stays(loaded, monkeypatch):
    parameters, path = dict(loaded.model.named_parameters()), cache_file(loaded)
    fsync, inodes = os.fsync, []

    def another_is_faster(descriptor):
        monkeypatch.setattr(os, "fsync", fsync)
        write_base(path, parameters)
        inodes.append(path.stat().st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", another_is_faster)
    write_base(path, parameters)

    assert inodes == [path.stat().st_ino]
    assert content(path.parent) == [path.name]


def test_a_damaged_file_that_another_run_has_repaired_meanwhile_stays(loaded, monkeypatch):
    mapped_base(loaded)
    flip_the_last_bit(cache_file(loaded))
    map_files, others = base_weights._map_files, []

    def another_is_faster(paths, parameters):
        monkeypatch.setattr(base_weights, "_map_files", map_files)
        try:
            return map_files(paths, parameters)
        finally:
            others.append(mapped_base(loaded))

    monkeypatch.setattr(base_weights, "_map_files", another_is_faster)
    mapped = mapped_base(loaded)

    assert same_bits(mapped, loaded.model)
    assert others[0].changed() is None


def test_a_file_system_without_hard_links_will_do(loaded, cache, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)

    assert same_bits(mapped_base(loaded), loaded.model)
    assert content(cache) == [cache_file(loaded).name]


def test_what_a_killed_writer_left_is_removed_and_that_of_a_running_one_stays(loaded, cache):
    (cache / "bases").mkdir(parents=True)
    for name, age in ((".old.1.part", 7200), (".new.2.part", 60)):
        (cache / "bases" / name).write_text("half of a model")
        os.utime(cache / "bases" / name, (time.time() - age,) * 2)

    mapped_base(loaded)

    assert content(cache) == [".new.2.part", cache_file(loaded).name]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_only_its_owner_may_write_to_the_file(loaded):
    before = os.umask(0)
    try:
        mapped_base(loaded)
    finally:
        os.umask(before)

    assert cache_file(loaded).stat().st_mode & 0o777 == 0o644


def test_parameters_of_several_dtypes_and_shapes_are_written_as_they_are(tmp_path):
    generator = torch.Generator().manual_seed(0)
    parameters = {
        "odd": torch.randn(3, generator=generator).bfloat16(),
        "matrix": torch.randn(5, 2, generator=generator).t(),
        "half": torch.tensor([[-0.0, 6e-8]], dtype=torch.float16),
        "scalar": torch.tensor(1.5),
        "none": torch.zeros(0, 4),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
    }

    write_base(tmp_path / "new" / "base.safetensors", parameters)

    written = load_file(tmp_path / "new" / "base.safetensors")
    assert written.keys() == parameters.keys()
    for name, tensor in parameters.items():
        assert (written[name].dtype, written[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(written[name]).equal(bits(tensor.contiguous()))
        assert written[name].data_ptr() % tensor.element_size() == 0


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({"ESFT_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"ESFT_CACHE_DIR": "~/a", "XDG_CACHE_HOME": "/b"}, Path.home() / "a"),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/esft")),
        ({"ESFT_CACHE_DIR": "", "XDG_CACHE_HOME": "/b"}, Path("/b/esft")),
        ({}, Path.home() / ".cache" / "esft"),
        ({"XDG_CACHE_HOME": ""}, Path.home() / ".cache" / "esft"),
    ],
)
def test_the_cache_lies_where_the_environment_says(settings, folder, monkeypatch):
    for name in ("ESFT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    assert cache_folder() == folder
