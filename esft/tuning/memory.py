"""The peak memory of this process."""

import resource
import sys

import torch


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: on the device for cuda, else of the process.

    On mps the process' memory is the device's.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
