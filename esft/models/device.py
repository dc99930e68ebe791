"""Which device and which dtype a model is loaded on."""

from __future__ import annotations

import platform
import re
from typing import TYPE_CHECKING

from esft.errors import ModelError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")
FLOAT = "float"
WEIGHTS = (FLOAT, "int8", "int4", "codes")
"""What a model's weights can be: floats, quantized here a row or a group at a time, or the codes
that its file has."""
GGUF_TYPES = ("F16", "BF16", "Q8_0")
"""What the floats of a .gguf file can be written as."""


def choose_device(name: str | None) -> torch.device:
    """Return the device called `name` (cuda, cuda:1, mps, cpu); None: the best of this machine."""
    import torch

    mps = ["mps"] if torch.backends.mps.is_available() else []
    available = [*(f"cuda:{i}" for i in range(torch.cuda.device_count())), *mps, "cpu"]
    if name is None:
        return torch.device(available[0])
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ModelError(
            f"device is {name!r}, expected cuda, cuda:N, mps or cpu",
            hint=f"this machine has {', '.join(available)}",
        )
    if name == "cuda" and "cuda:0" in available:
        return torch.device("cuda", torch.cuda.current_device())
    if name not in available:
        raise ModelError(
            f"device {name} is not available, expected one of {', '.join(available)}",
            hint="leave the device out to take the first of these"
            + ("; a torch built for your GPU finds it" if name != "cpu" else ""),
        )
    return torch.device(name)


def parse_dtype(name: str) -> torch.dtype:
    """Return the torch dtype called `name`; ModelError if no model can be tuned in it."""
    import torch

    if name not in DTYPES:
        raise ModelError(
            f"dtype is {name!r}, expected {', '.join(DTYPES)}",
            hint="leave dtype out to take the checkpoint's own",
        )
    return getattr(torch, name)


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether `device` has instructions for bfloat16, rather than emulating it."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    # Older versions of torch cannot say: then float32, which is right on every CPU.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "mps" or any(
        capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
    )


def emulates(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether `device` is a CPU that computes in half precision by way of float32."""
    import torch

    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if dtype == torch.float16:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return not any(capabilities.get(name) for name in ("avx512_fp16", "amx_fp16"))
    return dtype == torch.bfloat16 and not computes_bfloat16(device)


def choose_gguf_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """Return the dtype that .gguf weights are dequantized to on `device`, and why, in words."""
    import torch

    if computes_bfloat16(device):
        return torch.bfloat16, f"{device.type} computes in bfloat16"
    if device.type == "cuda":
        return torch.float16, "this GPU does not compute in bfloat16"
    return torch.float32, "this CPU has no bfloat16 instructions"


def finish_queue(device: torch.device) -> None:
    """Wait until a device has done what it was asked for; a CPU always has."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
