"""Ways to do the same work, timed in turns: seconds, ratios of a round, and their spread."""

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from esft.models.device import finish_queue
from esft.tuning.run_info import versions

Work = Mapping[str, Callable[[], object]]
"""Operations by name, to be done in this order."""

Seconds = dict[str, dict[str, list[float]]]
"""By way and operation: a number a round."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over the rounds of a measurement."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What figures were measured on, and when."""

    processor: str  # of the CPU
    cores: int  # that this process may use
    threads: int  # of torch, and of the kernels
    gpus: tuple[str, ...]
    versions: dict[str, str]
    date: str


def in_turns(ways: Mapping[str, Work], rounds: int, device: torch.device) -> Seconds:
    """Return how long the operations of each way took, round by round.

    In a round every way does all of its operations once, the ways in an order that changes; what
    was queued on `device` is waited for. What is slow only once is the caller's to do before.
    """
    seconds: Seconds = {way: {operation: [] for operation in work} for way, work in ways.items()}
    for number in range(rounds):
        for way in random.Random(number).sample(list(ways), len(ways)):
            for operation, do in ways[way].items():
                finish_queue(device)
                began = time.perf_counter()
                do()
                finish_queue(device)
                seconds[way][operation].append(time.perf_counter() - began)
    return seconds


def spread(values: Sequence[float]) -> Spread:
    """Return median and range of one or more values."""
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


def ratio(one: Sequence[float], other: Sequence[float]) -> Spread:
    """Return how many times as long the one took as the other in the same round."""
    return spread([a / b for a, b in zip(one, other, strict=True)])


def machine() -> Machine:
    """Return what this process runs on."""
    usable = getattr(os, "sched_getaffinity", None)
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1 if usable is None else len(usable(0)),
        threads=torch.get_num_threads(),
        gpus=tuple(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))),
        versions=versions(),
        date=datetime.now(UTC).date().isoformat(),
    )


def _processor() -> str:
    """Return the name of the CPU where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
