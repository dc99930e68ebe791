"""How much memory a device has left, and how much some work took of it."""

from __future__ import annotations

import gc
import math
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_LOOK_S = 0.003  # between two looks at what the process holds
_GROUPS = {"": ("", "memory.max", "memory.current")}  # where a limit is, by controller: version 2
_GROUPS |= {"memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes")}  # version 1


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process could still take on a device.

    On cuda those that are free there, and those that torch has reserved and not in use; elsewhere
    what the machine has left without swapping, or a control group of the process if that is less.
    """
    import torch

    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return int(min(psutil.virtual_memory().available, left_in_groups()))


def left_in_groups(
    groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> float:
    """Return what the control groups of this process leave it; infinity where none has a limit.

    Files that were read and can be read again (inactive ones of the page cache) are no loss.
    """
    left = math.inf
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in _GROUPS.keys() & set(controllers.split(",")):
                mounted, limit, used = _GROUPS[controller]
                root = groups / mounted
                folder = root / path.lstrip("/")
                for group in (folder, *folder.parents):
                    if group.is_relative_to(root):
                        left = min(left, _left_in(group, limit, used))
    return left


def _left_in(group: Path, limit: str, used: str) -> float:
    with suppress(OSError, ValueError):  # there is none, or it is called max
        left = int((group / limit).read_text()) - int((group / used).read_text())
        for line in (group / "memory.stat").read_text().splitlines():
            name, _, size = line.partition(" ")
            left += int(size) if name == "inactive_file" else 0
        return max(0, left)
    return math.inf


@dataclass
class Taken:
    """What some work took."""

    nbytes: int = 0


@contextmanager
def memory_taken(device: torch.device) -> Iterator[Taken]:
    """Measure how many bytes the work inside the block held at its peak beyond those held before.

    On cuda from torch's own count; elsewhere by looking at the process again and again, which sees
    no memory that the allocator had kept from before.
    """
    import torch

    gc.collect()
    taken = Taken()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield taken
        taken.nbytes = torch.cuda.max_memory_allocated(device) - before
        return

    def held() -> int:
        mps = torch.mps.driver_allocated_memory() if device.type == "mps" else 0
        return process.memory_info().rss + mps

    def look() -> None:
        while not over.wait(_LOOK_S):
            taken.nbytes = max(taken.nbytes, held() - before)

    process, over = psutil.Process(), threading.Event()
    before = held()
    looking = threading.Thread(target=look, name="memory")
    looking.start()
    try:
        yield taken
        taken.nbytes = max(taken.nbytes, held() - before)
    finally:
        over.set()
        looking.join()


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: on the device for cuda, else (mps, too) by the process."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # which Windows does not have

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
