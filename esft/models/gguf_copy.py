"""A .gguf file once more, with other values in its tensors: all else as it is, byte for byte."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from esft.errors import ModelError
from esft.files import whole_file, writing

if TYPE_CHECKING:
    pass

_HEAD = 24
"""Bytes before the metadata: magic number, version, and the counts of tensors and keys."""
_UINT32, _STRING = 4, 8
"""Types of a value of the metadata."""
FILE_TYPES = {"F16": 1, "Q8_0": 7, "BF16": 32}
"""What general.file_type says of a file whose matrices are of a type."""


def copy_gguf(
    source: Path,
    out: Path,
    values: Mapping[str, Callable[[], np.ndarray]],
    keys: Mapping[str, str],
    kinds: Mapping[str, str] | None = None,
    file_type: str | None = None,
) -> None:
    """Write the file `source` to `out`, whole or not at all.

    Args:
        values: what makes the bytes of a tensor, (rows, bytes of a row), by its name; the others
            stay as they are.
        keys: what is added to the metadata; those there of the same name go.
        kinds: types of these tensors; None keeps theirs.
        file_type: one of `FILE_TYPES`, where the file is of another type then.

    Raises:
        ModelError: if the source has another byte order than this machine.
        RunError: if `out` cannot be written.
    """
    from gguf import GGUFReader

    reader = GGUFReader(str(source))
    if reader.byte_order != "I":
        raise ModelError(
            f"{source} is of another byte order than this machine, expected the same",
            hint="write a folder, without .gguf at its end",
        )
    plain = reader.data
    kept = [field for name, field in reader.fields.items() if _is_kept(name, keys)]
    metadata = b"".join(_field(plain, field, file_type) for field in kept)
    metadata += b"".join(_string(key) + _number(_STRING) + _string(keys[key]) for key in keys)
    count = len(kept) + len(keys)
    with writing(out), whole_file(out) as part, open(part, "wb") as file:
        file.write(plain[: _HEAD - 8].tobytes() + struct.pack("<Q", count) + metadata)
        _write_tensors(file, reader, values, {} if kinds is None else kinds)


def _is_kept(name: str, keys: Mapping[str, str]) -> bool:
    return not name.startswith("GGUF.") and name not in keys


def _field(plain: np.ndarray, field: Any, kind: str | None) -> bytes:
    """Return a key with its value as they are in the file, but for the type of the file."""
    size = sum(int(part.nbytes) for part in field.parts)
    raw = plain[field.offset : field.offset + size].tobytes()
    if kind is not None and field.name == "general.file_type":
        raw = raw[:-4] + _number(FILE_TYPES[kind])
    return raw


def _write_tensors(
    file: BinaryIO,
    reader: Any,
    values: Mapping[str, Callable[[], np.ndarray]],
    named: Mapping[str, str],
) -> None:
    """Write what describes the tensors, then their bytes, one tensor in memory at a time."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kinds, at, places = [], 0, []
    for tensor in reader.tensors:
        other = named.get(tensor.name)
        kinds.append(tensor.tensor_type if other is None else GGMLQuantizationType[other])
        places.append(at)
        block, size = GGML_QUANT_SIZES[kinds[-1]]
        at = _aligned(at + int(tensor.n_elements) // block * size, int(reader.alignment))
    for tensor, kind, place in zip(reader.tensors, kinds, places, strict=True):
        dims = [int(size) for size in tensor.shape]
        file.write(_string(tensor.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
        file.write(struct.pack("<IQ", kind, place))
    for tensor in reader.tensors:
        file.write(bytes(-file.tell() % int(reader.alignment)))
        made = values[tensor.name]() if tensor.name in values else tensor.data
        file.write(np.ascontiguousarray(made).data)
    file.write(bytes(-file.tell() % int(reader.alignment)))


def _aligned(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment


def _number(value: int) -> bytes:
    return struct.pack("<I", value)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
