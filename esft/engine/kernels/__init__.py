"""The passes over weights in three forms of the same bits, and which of them serves a device."""

import hashlib
import os
from pathlib import Path
from subprocess import SubprocessError

import torch

from esft.engine.kernels.reference import Kernels
from esft.files import cache_folder

__all__ = ["Kernels", "chosen_kernels"]


def chosen_kernels(device: torch.device) -> Kernels:
    """Return the fastest passes that can run here: numba on a CPU, Triton on cuda, else torch.

    Where the faster ones cannot, `missing` of those in torch says why.
    """
    try:
        if device.type == "cpu":
            import numba

            # Before the module: its functions look for their compiled form when they are made.
            numba.config.CACHE_DIR = str(compiled_folder())
            from esft.engine.kernels.numba_cpu import NumbaKernels

            return NumbaKernels()
        if device.type == "cuda" and torch.version.hip is None:
            from triton.runtime import driver

            # Some versions build their driver here: it takes a C compiler and Python's headers.
            driver.active.get_current_target()
            from esft.engine.kernels.triton_cuda import TritonKernels

            return TritonKernels()
    except (ImportError, OSError, RuntimeError, SubprocessError) as error:
        # RuntimeError: of numba where no folder for its cache can be written, of Triton's driver.
        faster = "numba" if device.type == "cpu" else "triton"
        return Kernels(missing=f"{faster} does not run here: {' '.join(str(error).split())}")
    return Kernels()


def compiled_folder() -> Path:
    """Return where the form that numba compiled of these sources lies.

    One of its own for each state of all of them: numba looks at the one file where a function
    stands, and not at the others that its instructions come from.
    """
    digest, here = hashlib.sha256(), Path(__file__).parent
    for file in (*sorted(here.glob("*.py")), here.parent / "noise.py"):
        digest.update(file.read_bytes())
    folder = os.environ.get("NUMBA_CACHE_DIR") or cache_folder() / "kernels"
    return Path(folder) / digest.hexdigest()[:16]
