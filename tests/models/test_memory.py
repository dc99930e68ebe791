import math
import mmap
import time

import psutil
import pytest
import torch

from esft.models.memory import free_memory, left_in_groups, memory_taken

CPU = torch.device("cpu")
MB = 2**20


def write_group(folder, names, limit, used, inactive=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")


def own(folder, *lines):
    file = folder / "cgroup"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def seen_within(seconds, seen):
    """Hold on, as long work does, until what looks on from another thread has had its turn."""
    until = time.monotonic() + seconds
    while not seen() and time.monotonic() < until:
        time.sleep(0.01)


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("memory.max", "memory.current")


def test_the_tightest_group_above_a_process_counts(tmp_path):
    write_group(tmp_path / "groups" / "a", V2, 1000, 900, inactive=200)
    write_group(tmp_path / "groups" / "a" / "b", V2, "max", 800)
    write_group(tmp_path / "groups" / "other", V2, 10, 10)

    left = left_in_groups(tmp_path / "groups", own(tmp_path, "0::/a/b"))

    assert left == 300


def test_groups_of_version_1_count_too_also_where_a_container_sees_only_its_own(tmp_path):
    write_group(tmp_path / "groups" / "memory", V1, 1000, 600)

    lines = ("5:cpu,cpuacct:/docker/ab", "4:memory:/docker/ab")
    left = left_in_groups(tmp_path / "groups", own(tmp_path, *lines))

    assert left == 400


def test_a_group_over_its_limit_has_nothing_left(tmp_path):
    write_group(tmp_path / "groups", V2, 1000, 1200)

    assert left_in_groups(tmp_path / "groups", own(tmp_path, "0::/")) == 0


def test_without_groups_the_machine_is_the_limit(tmp_path):
    assert left_in_groups(tmp_path, tmp_path / "missing") == math.inf
    assert 0 < free_memory(CPU) <= psutil.virtual_memory().total


@pytest.mark.parametrize("megabytes", [64, 256])
def test_what_is_held_inside_the_block_and_given_back_is_measured(megabytes):
    with memory_taken(CPU) as taken:
        for _ in range(2):
            # The system's own pages, which no allocator has kept from before.
            with mmap.mmap(-1, megabytes * MB) as held:
                for page in range(0, len(held), mmap.PAGESIZE):
                    held[page] = 1
                seen_within(60, lambda: taken.nbytes > megabytes * MB * 0.9)

    assert megabytes * MB * 0.9 < taken.nbytes < (megabytes + 32) * MB
