"""Load a language model and its tokenizer, checked and ready to be tuned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from esft.errors import ModelError
from esft.models.check import check_files, check_weights
from esft.models.check_loaded import and_more, check_loaded
from esft.models.device import choose_device, choose_gguf_dtype, computes_bfloat16, parse_dtype
from esft.models.find import find_model
from esft.models.gguf import load_gguf
from esft.models.hub import fetch
from esft.models.quiet import quiet
from esft.models.save import save_model
from esft.models.tokenizer import borrow_pad, load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["LoadedModel", "load_model", "save_model"]


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A causal language model on its device, with its tokenizer."""

    model: PreTrainedModel
    """In eval mode, no parameter requires a gradient."""
    tokenizer: PreTrainedTokenizerBase
    id: str
    """As the user named it."""
    source: str
    """Where it came from: a path, or a hub id and its revision (org/name@commit)."""
    device: torch.device
    dtype: torch.dtype
    """Of the parameters."""
    folder: Path | None = None
    """Where its safetensors files lie on this disk; None for a .gguf file."""
    notes: tuple[str, ...] = ()
    """What to tell the user: choices made for them, things that are not there."""
    borrowed_pad: bool = False
    """The checkpoint has no pad token: the tokenizer's was set here and is not saved."""


def load_model(
    id: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load the model called `id`, every weight of it from the checkpoint, all finite.

    Args:
        id: short name, hub id, folder or .gguf file, as `find_model` reads it.
        dtype: float32, float16 or bfloat16; None takes the checkpoint's own, and for a .gguf
            file what the device computes in.
        device: cuda, cuda:N, mps or cpu; None takes the first that this machine has.
        trust_remote_code: run Python code that comes with the checkpoint.

    Raises:
        ModelError: if there is no such model, device or dtype, or it cannot be tuned.
    """
    place = choose_device(device)
    wanted = None if dtype is None else parse_dtype(dtype)
    found = find_model(id)
    with quiet():
        if isinstance(found, Path) and found.is_file():
            raw = _load_file(found, wanted, place)
        else:
            raw = _load_checkpoint(found, wanted, place, trust_remote_code)
    check_loaded(raw.model, raw.info, str(found))
    raw.model.eval().requires_grad_(False)
    pad = borrow_pad(raw.tokenizer)
    notes = (*raw.notes, *_notes(raw, pad, named=dtype is not None))
    return LoadedModel(
        model=raw.model,
        tokenizer=raw.tokenizer,
        id=id,
        source=raw.source,
        device=raw.model.device,
        dtype=raw.model.dtype,
        folder=raw.folder,
        notes=notes,
        borrowed_pad=pad is not None,
    )


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """What transformers made of a file or a checkpoint, not checked yet."""

    model: PreTrainedModel
    info: dict
    tokenizer: PreTrainedTokenizerBase
    source: str
    folder: Path | None = None
    notes: tuple[str, ...] = ()


def _load_file(path: Path, dtype: torch.dtype | None, device: torch.device) -> _Raw:
    why = "as asked for"
    if dtype is None:
        dtype, why = choose_gguf_dtype(device)
    with quiet(bars_too=True), _clear_errors(str(path)):
        model, info, tokenizer = load_gguf(path, dtype, _device_map(device))
    note = f"{path.name}: weights dequantized to {str(dtype).removeprefix('torch.')}, {why}"
    return _Raw(
        model=model, info=info, tokenizer=tokenizer, source=str(path.absolute()), notes=(note,)
    )


def _load_checkpoint(
    found: Path | str, dtype: torch.dtype | None, device: torch.device, trust_remote_code: bool
) -> _Raw:
    from transformers import AutoModelForCausalLM

    if isinstance(found, Path):
        folder, revision = found, None
        check_files(folder, str(found), trust_remote_code=trust_remote_code)
    else:
        folder = fetch(found, trust_remote_code=trust_remote_code)
        revision = folder.name
    check_weights(folder, str(found))
    # A hub id stays a hub id, since transformers treats some tokenizers by it.
    where = {
        "revision": revision or "main",
        "local_files_only": True,  # everything has been fetched
        "trust_remote_code": trust_remote_code,
    }
    with _clear_errors(str(found)):
        model, info = AutoModelForCausalLM.from_pretrained(
            str(found),
            dtype="auto" if dtype is None else dtype,
            device_map=_device_map(device),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported in info and refused by name
            output_loading_info=True,
            **where,
        )
        tokenizer = load_tokenizer(str(found), str(found), **where)
    source = str(folder.absolute()) if revision is None else f"{found}@{revision}"
    return _Raw(
        model=model, info=info, tokenizer=tokenizer, source=source, folder=folder.absolute()
    )


def _device_map(device: torch.device) -> dict | None:
    # Straight to the device, without a copy of all weights in memory first.
    return None if device.type == "cpu" else {"": device}


@contextmanager
def _clear_errors(name: str) -> Iterator[None]:
    """Turn what transformers raises about a checkpoint or this machine into a ModelError."""
    import torch
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"{name} does not fit into memory: {_first_line(error)}",
            hint="name a smaller dtype (--dtype bfloat16), a smaller model or another device",
        ) from error
    except ImportError as error:
        raise ModelError(
            f"{name} needs a package that is not installed: {_first_line(error)}",
            hint="install it with pip",
        ) from error
    except (OSError, ValueError, StrictDataclassError) as error:
        raise ModelError(
            f"{name} cannot be loaded: {_first_line(error)}",
            hint="download config.json and the weights again, or take another checkpoint",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _notes(raw: _Raw, pad: str | None, *, named: bool) -> Iterator[str]:
    dtype = str(raw.model.dtype).removeprefix("torch.")
    if dtype == "bfloat16" and not named and not computes_bfloat16(raw.model.device):
        yield f"{raw.model.device.type} emulates bfloat16, slowly: --dtype float32 is faster here"
    unused = sorted(raw.info["unexpected_keys"])
    if unused:
        some = unused[0] + and_more(unused)
        yield f"the model does not use all tensors of its checkpoint: {some}"
    if raw.tokenizer.chat_template is None:
        yield "the tokenizer has no chat template: prompts go in plain"
    if pad is not None:
        yield f"the tokenizer has no pad token: {pad} pads, always masked"
