"""The cache of base weights: one file a base model, written once, whole or not at all."""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from esft.errors import AnchorError
from esft.files import FULL_DISK, cache_folder

KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
"""What a file can hold: dtypes and what safetensors calls them."""

ELSEWHERE = (
    "set ESFT_CACHE_DIR to a folder on another disk, or keep the base weights in memory: [anchor] "
    'store = "cpu"'
)
"""What helps where the cache cannot be written."""

_PIECE = 1 << 22  # bytes on the host at a time
_ABANDONED = 3600  # seconds without a write, after which the writer of a part is taken for dead


def base_path(base_identity: str) -> Path:
    """Return the file for the base model of this identity, there or not."""
    return cache_folder() / "bases" / f"{base_identity}.safetensors"


def write_base(path: Path, parameters: Mapping[str, Tensor]) -> None:
    """Write parameters to a safetensors file that only its owner may write to.

    It appears under its name once all of it is on the disk. A file that another process put there
    in the meantime stays: it may be mapped already. Written by hand, since safetensors itself
    would first copy all that lies on a device to the host.

    Args:
        path: the file, which does not exist; its folder is made.
        parameters: on any device, of dtypes in KINDS; streamed.

    Raises:
        AnchorError: if there is no room or no right to write; nothing is left then.
    """
    header, order = _header(parameters)
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part")
    with _clear_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        _require_room(path, len(header) + sum(tensor.nbytes for tensor in order))
        try:
            with open(part, "xb", opener=_for_the_owner) as file:
                file.write(header)
                for tensor in order:
                    _write_tensor(file, tensor)
                file.flush()
                os.fsync(file.fileno())
            _give_name(part, path)
        finally:  # also on Ctrl-C
            part.unlink(missing_ok=True)


def remove_base(path: Path) -> None:
    """Remove a file that is no longer what was written; whoever maps it keeps what they map.

    Raises:
        AnchorError: if it cannot be removed.
    """
    with _clear_errors(path):
        path.unlink(missing_ok=True)


def size_text(nbytes: int) -> str:
    """Return a size in MB (10**6 bytes), or GB (10**9) from there on."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.2f} MB"


def _header(parameters: Mapping[str, Tensor]) -> tuple[bytes, list[Tensor]]:
    """Return what a file begins with, and the parameters in their order in it."""
    # Wide elements first: behind an odd number of narrow ones they would not be aligned.
    names = sorted(parameters, key=lambda name: -parameters[name].element_size())
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in names:
        tensor = parameters[name]
        entries[name] = {
            "dtype": KINDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, start + tensor.nbytes],
        }
        start += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, [parameters[name] for name in names]


def _write_tensor(file: BinaryIO, tensor: Tensor) -> None:
    flat = tensor.detach().reshape(-1)
    count = _PIECE // flat.element_size()
    for start in range(0, flat.numel(), count):
        file.write(flat[start : start + count].cpu().view(torch.uint8).numpy())


def _give_name(part: Path, path: Path) -> None:
    try:
        os.link(part, path)  # unlike a rename, this never replaces what is there
    except FileExistsError:
        pass
    except OSError:  # not every file system has hard links
        os.replace(part, path)


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o644)


def _remove_abandoned(folder: Path) -> None:
    """Remove the parts of writers that were killed: their files have the size of a model."""
    for part in folder.glob(".*.part"):
        with suppress(FileNotFoundError):  # another process may end with it just now
            if time.time() - part.stat().st_mtime > _ABANDONED:
                part.unlink()


def _require_room(path: Path, nbytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < nbytes:
        raise AnchorError(
            f"{path.parent} has {size_text(free)} free, expected {size_text(nbytes)} for the base "
            "weights",
            hint=f"make room, {ELSEWHERE}",
        )


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in FULL_DISK
        raise AnchorError(
            f"the base weights cannot be written to {path}: {error.strerror or error}",
            hint=f"{'make room' if full else 'make the folder yours'}, {ELSEWHERE}",
        ) from error
