"""Where the base weights lie on the disk, mapped and checked against the loaded model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock
from rich.filesize import decimal
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from esft.errors import AnchorError, RunError
from esft.files import cache_folder, remove_abandoned, whole_file, writing
from esft.models.check import weight_files

if TYPE_CHECKING:
    from esft.models.load import LoadedModel

_KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8)
_ELSEWHERE = (
    "set ESFT_CACHE_DIR to a folder on another disk, or keep the base weights in memory: [anchor] "
    'store = "cpu"'
)
_PIECE = 1 << 22  # bytes compared at a time

Stamp = tuple[int, int, int]
"""Size, time of the last change and inode of a file: what changes when its content does."""


@dataclass(frozen=True, kw_only=True)
class MappedBase:
    """The base weights as parts of files that are mapped into memory; never to be written to."""

    tensors: dict[str, Tensor]
    """Canonical name -> (numel,), on the host, in the dtype of the loaded parameter."""
    files: dict[Path, Stamp]
    """What is mapped, as it was then."""
    note: str = ""
    """What to tell the user: which files, and why they were written if they were."""

    def changed(self) -> Path | None:
        """Return a mapped file that is gone or was touched since; None where there is none.

        To be asked before a run goes on: reading what was cut off a mapped file kills the process.
        """
        return next((path for path, stamp in self.files.items() if _stamp(path) != stamp), None)


def map_base(loaded: LoadedModel, names: list[str], base_identity: str) -> MappedBase:
    """Map the base weights from files that hold the very bits of the loaded parameters.

    These are the checkpoint's own safetensors files, where they hold every parameter under its
    name, in its dtype and shape; else one file in the cache, written by the first run that needs
    it. Every bit is compared, in pieces. AnchorError if the cache is needed and cannot be written.

    Args:
        loaded: a model at its base weights.
        names: of the parameters wanted.
        base_identity: names the file in the cache.
    """
    wanted = {name: loaded.model.get_parameter(name).detach() for name in names}
    try:
        if loaded.folder is None:
            raise _UnfitError("the model does not come from safetensors files")
        files = [loaded.folder / file for file in weight_files(loaded.folder, loaded.source)]
        mapped = _map_files(files, wanted)
    except _UnfitError as error:
        return _map_cache(loaded, names, base_path(base_identity), why=str(error))
    return replace(mapped, note=f"base weights mapped from {_listed(list(mapped.files))}")


def base_path(base_identity: str) -> Path:
    """Return the cache's file for the base model of this identity, there or not."""
    return cache_folder() / "bases" / f"{base_identity}.safetensors"


class _UnfitError(Exception):
    """Files do not hold the parameters; the message says why."""


def _map_cache(loaded: LoadedModel, names: list[str], path: Path, why: str) -> MappedBase:
    # All of them, so that runs which need others find this file too.
    parameters = {
        name: parameter.detach()
        for name, parameter in loaded.model.named_parameters()
        if parameter.dtype in _KINDS
    }
    try:
        mapped, how = _map_files([path], parameters), "mapped from"
    except _UnfitError:
        try:
            with writing(path):
                mapped, how = _write_alone(path, parameters)
        except RunError as error:
            hint = f"{error.hint}, {_ELSEWHERE}"
            raise AnchorError(f"the base weights: {error}", hint=hint) from error
    (stamp,) = mapped.files.values()
    return replace(
        mapped,
        tensors={name: mapped.tensors[name] for name in names},
        note=f"base weights {how} {path} ({decimal(stamp[0], precision=2)}), since {why}",
    )


def _write_alone(path: Path, parameters: Mapping[str, Tensor]) -> tuple[MappedBase, str]:
    """Write and map the cache's file while no other process does; return also what was done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / ".lock"):
        remove_abandoned(path.parent)  # what killed writers left has the size of a model
        try:  # another process may have written it while this one waited for its turn
            return _map_files([path], parameters), "mapped from"
        except _UnfitError:
            how = f"written {'anew (it was damaged)' if path.exists() else 'once'} to"
        free = shutil.disk_usage(path.parent).free
        needed = sum(parameter.nbytes for parameter in parameters.values())
        if free < needed:
            sizes = [decimal(size, precision=2) for size in (free, needed)]
            raise AnchorError(
                f"{path.parent} has {sizes[0]} free, expected {sizes[1]} for the base weights",
                hint=f"make room, {_ELSEWHERE}",
            )
        # Nobody but its owner may write to it. What lies on the host is written from where it is;
        # of a model on another device safetensors makes a copy on the host, as on saving the model.
        with whole_file(path, mode=0o644) as part:
            save_file({name: p.contiguous() for name, p in parameters.items()}, part)
        try:
            return _map_files([path], parameters), how
        except _UnfitError as error:
            raise AnchorError(
                f"{path} does not hold the base weights that were written to it: {error}",
                hint=f"check the disk, {_ELSEWHERE}",
            ) from error


def _map_files(paths: list[Path], parameters: Mapping[str, Tensor]) -> MappedBase:
    """Map the parameters from those of the files that hold them; raise _UnfitError if none do."""
    tensors: dict[str, Tensor] = {}
    stamps: dict[Path, Stamp] = {}
    for path in paths:
        stamp = _stamp(path)  # before anything is read: a later change must show
        try:
            with safe_open(path, framework="pt") as file:  # what it gives are views of the file
                names = [name for name in file.keys() if name in parameters]  # noqa: SIM118
                tensors |= {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise _UnfitError(f"{path.name} cannot be read: {error}") from error
        if names and stamp is not None:
            stamps[path] = stamp
    for name, parameter in parameters.items():
        if name not in tensors:
            raise _UnfitError(f"{name} is not in {_listed(paths)}")
        _check_same(name, tensors[name], parameter)
    return MappedBase(tensors={name: tensors[name].view(-1) for name in parameters}, files=stamps)


def _check_same(name: str, mapped: Tensor, parameter: Tensor) -> None:
    kinds = [(tensor.dtype, tuple(tensor.shape)) for tensor in (mapped, parameter)]
    for stored, present in zip(*kinds, strict=True):
        if stored != present:
            raise _UnfitError(f"{name} is {stored} on the disk, and {present} loaded")
    if mapped.data_ptr() % mapped.element_size():
        raise _UnfitError(f"{name} is not aligned in its file")
    count = _PIECE // mapped.element_size()
    for pair in zip(mapped.view(-1).split(count), parameter.reshape(-1).split(count), strict=True):
        # Bits, not values: -0.0 == 0.0.
        if not torch.equal(*(piece.cpu().view(torch.uint8) for piece in pair)):
            raise _UnfitError(f"{name} has other bits on the disk than loaded")


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _listed(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{len(files)} files in {files[0].parent}"
