"""The cache of base weights: written once, whole or not at all."""

import os
import shutil
import sys
from threading import Barrier, Thread

import pytest
from bases import cache_file, content, cut_off, flip_the_last_bit, mapped_base, same_bits
from safetensors.torch import load_file, save_file
from tiny_models import write_gguf

from esft.engine.weights import identity
from esft.errors import AnchorError
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


def test_the_cache_is_written_once_and_found_again(loaded):
    first = mapped_base(loaded)
    again = mapped_base(loaded)

    assert same_bits(again, loaded.model)
    assert again.files == first.files
    assert first.note.startswith("base weights written once to ")
    assert again.note.startswith("base weights mapped from ")


def test_a_later_run_on_other_parameters_of_the_model_finds_the_file_too(loaded):
    first = map_base(loaded, ["model.norm.weight"], identity(loaded.model))
    again = mapped_base(loaded)

    assert list(first.tensors) == ["model.norm.weight"]
    assert again.files == first.files
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

    runs = [Thread(target=run) for _ in range(4)]
    for each in runs:
        each.start()
    for each in runs:
        each.join()

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
