"""How many CPU threads a run computes with: one where more bring nothing."""

import os
import time
from collections.abc import Callable

import torch

from esft.tuning.session import Session
from esft.tuning.watcher import Watcher

SMALL = 20_000_000
"""Parameters up to which a model computes on one thread. Measured on two cores: the embedded model
is as fast on one as on two, and beside another busy process two wait for each other (16 to 22 s a
step against 3.4 s)."""
FASTER = 1.15
"""So many times as fast as one thread must all of them be."""
_TOKENS = 16, 16  # sequences and their length, of the forward that is timed
_SET = "OMP_NUM_THREADS", "MKL_NUM_THREADS"


def fit_threads(session: Session, watcher: Watcher) -> None:
    """Set the threads of torch and of the kernels for a run that begins, on a CPU.

    As [run] threads says, else as the environment says (OMP_NUM_THREADS), else one for a small
    model, and what a forward is faster with for others. Results can depend on it in their last
    bits, so a run records its number and keeps to it, also on resume.
    """
    asked, model = session.recipe.run.threads, session.base.loaded.model
    if asked is not None:
        torch.set_num_threads(asked)
    elif model.device.type == "cpu" and not any(os.environ.get(name) for name in _SET):
        watcher.phase("finding how many threads to compute with")
        parameters = sum(parameter.numel() for parameter in model.parameters())
        tokens = torch.arange(_TOKENS[0] * _TOKENS[1]).reshape(_TOKENS) % 64
        torch.set_num_threads(
            faster_threads(parameters, torch.get_num_threads(), lambda: model(tokens))
        )


def faster_threads(parameters: int, most: int, work: Callable[[], object]) -> int:
    """Return 1, or `most` where `work` is faster by FASTER on so many; see SMALL."""
    if most == 1 or parameters <= SMALL:
        return 1
    seconds: dict[int, list[float]] = {1: [], most: []}
    with torch.inference_mode():
        for _ in range(3):
            for threads, took in seconds.items():
                torch.set_num_threads(threads)
                began = time.monotonic()
                work()
                took.append(time.monotonic() - began)
    one, all_of_them = (min(took) for took in seconds.values())
    return most if one > FASTER * all_of_them else 1
