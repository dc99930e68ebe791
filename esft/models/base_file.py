"""Where the base weights lie on the disk, mapped and checked against the loaded model."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from esft.errors import AnchorError
from esft.models.base_cache import ELSEWHERE, KINDS, base_path, remove_base, size_text, write_base
from esft.models.check import weight_files

if TYPE_CHECKING:
    from esft.models.load import LoadedModel

_PIECE = 1 << 22  # bytes compared at a time


@dataclass(frozen=True)
class Stamp:
    """What of a file changes when its content does."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, kw_only=True)
class MappedBase:
    """The base weights as parts of files that are mapped into memory; never to be written to."""

    tensors: dict[str, Tensor]
    """Canonical name -> (numel,), on the host, in the dtype of the loaded parameter."""
    files: tuple[Path, ...]
    """What is mapped."""
    note: str
    """What to tell the user: which files, and why they were written if they were."""
    stamps: tuple[Stamp, ...]
    """Of the files, from before they were mapped."""

    def changed(self) -> Path | None:
        """Return a mapped file that is gone or was touched since; None where there is none.

        To be asked before a run goes on: reading what was cut off a mapped file kills the process.
        """
        for path, stamp in zip(self.files, self.stamps, strict=True):
            if _stamp(path) != stamp:
                return path
        return None


def map_base(loaded: LoadedModel, names: list[str], base_identity: str) -> MappedBase:
    """Map the base weights from files that hold the very bits of the loaded parameters.

    These are the checkpoint's own safetensors files, where they hold every parameter under its
    name, in its dtype and shape; else one file in the cache, written by the first run that needs
    it (see `write_base`). Every bit is compared, in pieces.

    Args:
        loaded: a model at its base weights.
        names: canonical names of the parameters wanted.
        base_identity: of the model; see `identity`.

    Raises:
        AnchorError: if the cache is needed and cannot be written.
    """
    wanted = {name: loaded.model.get_parameter(name).detach() for name in names}
    try:
        if loaded.folder is None:
            raise _UnfitError("the model does not come from safetensors files")
        files = [loaded.folder / file for file in weight_files(loaded.folder, loaded.source)]
        mapped = _map_files(files, wanted)
    except _UnfitError as error:
        return _map_cache(loaded, names, base_path(base_identity), why=str(error))
    return replace(mapped, note=f"base weights mapped from {_listed(mapped.files)}")


class _UnfitError(Exception):
    """Files do not hold the parameters; the message says why."""


def _map_cache(loaded: LoadedModel, names: list[str], path: Path, why: str) -> MappedBase:
    parameters = {
        name: parameter.detach()
        for name, parameter in loaded.model.named_parameters()
        if parameter.dtype in KINDS
    }
    before = _stamp(path)
    try:
        mapped, how = _map_files([path], parameters), "mapped from"
    except _UnfitError:
        mapped = _write_and_map(path, parameters, before)
        how = "written once to" if before is None else "written anew (it was damaged) to"
    return replace(
        mapped,
        tensors={name: mapped.tensors[name] for name in names},
        note=f"base weights {how} {path} ({size_text(mapped.stamps[0].size)}), since {why}",
    )


def _write_and_map(
    path: Path, parameters: Mapping[str, Tensor], damaged: Stamp | None
) -> MappedBase:
    # Another process may have replaced the damaged file by now, and have mapped the new one.
    if damaged is not None and _stamp(path) == damaged:
        remove_base(path)
    write_base(path, parameters)
    try:
        return _map_files([path], parameters)
    except _UnfitError as error:
        raise AnchorError(
            f"{path} does not hold the base weights that were written to it: {error}",
            hint=f"check the disk, {ELSEWHERE}",
        ) from error


def _map_files(paths: list[Path], parameters: Mapping[str, Tensor]) -> MappedBase:
    """Map the parameters from those of the files that hold them; raise _UnfitError if none do."""
    tensors: dict[str, Tensor] = {}
    stamps: dict[Path, Stamp] = {}
    for path in paths:
        stamp = _stamp(path)  # before anything is read: a later change must show
        found = _open(path, parameters)
        if found and stamp is not None:
            tensors |= found
            stamps[path] = stamp
    for name, parameter in parameters.items():
        if name not in tensors:
            raise _UnfitError(f"{name} is not in {_listed(tuple(paths))}")
        _check_same(name, tensors[name], parameter)
    return MappedBase(
        tensors={name: tensors[name].view(-1) for name in parameters},
        files=tuple(stamps),
        note="",
        stamps=tuple(stamps.values()),
    )


def _open(path: Path, names: Container[str]) -> dict[str, Tensor]:
    """Return those tensors of a file that have one of the names; views of the mapped file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name in names}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _UnfitError(f"{path.name} cannot be read: {error}") from error


def _check_same(name: str, mapped: Tensor, parameter: Tensor) -> None:
    if mapped.dtype != parameter.dtype:
        raise _UnfitError(f"{name} is {mapped.dtype} on the disk, and {parameter.dtype} loaded")
    if mapped.shape != parameter.shape:
        raise _UnfitError(
            f"{name} is {tuple(mapped.shape)} on the disk, and {tuple(parameter.shape)} loaded"
        )
    if mapped.data_ptr() % mapped.element_size():
        raise _UnfitError(f"{name} lies at an odd place of its file")
    ones, others = mapped.view(-1), parameter.reshape(-1)
    count = _PIECE // mapped.element_size()
    for start in range(0, ones.numel(), count):
        if not np.array_equal(
            _bytes(ones[start : start + count]), _bytes(others[start : start + count])
        ):
            raise _UnfitError(f"{name} has other bits on the disk than loaded")


def _bytes(flat: Tensor) -> np.ndarray:
    # Bits, not values: -0.0 == 0.0.
    return flat.cpu().view(torch.uint8).numpy()


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


def _listed(files: tuple[Path, ...]) -> str:
    if len(files) == 1:
        return str(files[0])
    return f"{len(files)} files in {files[0].parent}"
