"""Write a model to a folder, in Hugging Face form: whole, or not at all."""

from __future__ import annotations

import copy
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from esft.errors import RunError
from esft.files import FULL_DISK
from esft.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from esft.models import LoadedModel


def save_model(loaded: LoadedModel, folder: Path) -> None:
    """Write weights, config, generation config, tokenizer and chat template to `folder`.

    `AutoModelForCausalLM.from_pretrained(folder)` gives a model with the same bits. The folder
    appears by rename once everything is on the disk; until then nothing of that name is there.

    Raises:
        RunError: if `folder` exists and is not empty, or cannot be written (disk full, ...);
            nothing half-written is left.
    """
    folder = Path(folder).absolute()
    _check_free(folder)
    with _clear_errors(folder), _whole_folder(folder) as partial, quiet(no_bars=True):
        _save_model(loaded.model, partial)
        _save_tokenizer(loaded.tokenizer, partial, drop_pad=loaded.borrowed_pad)


def _check_free(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise RunError(
            f"{folder} exists, expected a new or an empty folder for the model",
            hint="name another folder, or move that one away",
        )


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Lend a new folder beside `folder`, then put it in its place; remove it on any error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir()
    try:
        yield partial
        _settle(partial)
        if folder.exists():
            folder.rmdir()  # empty: not every system renames over it
        partial.rename(folder)
        _sync(folder.parent)
    except BaseException:  # also Ctrl-C
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _settle(folder: Path) -> None:
    """Bring every byte of `folder` to the disk, readable by whoever may read the folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(folder.stat().st_mode & 0o666)  # safetensors writes for the owner alone
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # no folder can be opened there
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _save_model(model: PreTrainedModel, folder: Path) -> None:
    from transformers import GenerationConfig

    generation = model.generation_config
    # save_pretrained refuses generation configs that some checkpoints come with (a temperature
    # where nothing is sampled); as it came, it is written below.
    model.generation_config = GenerationConfig()
    try:
        model.save_pretrained(folder)
    finally:
        model.generation_config = generation
    generation.to_json_file(folder / "generation_config.json", use_diff=True)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, *, drop_pad: bool) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    if drop_pad:
        tokenizer.pad_token = None
    for how_it_was_loaded in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(how_it_was_loaded, None)
    tokenizer.save_pretrained(folder)


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: Exception) -> RunError:
    # safetensors writes the number of the system's error into its text only.
    full = getattr(error, "errno", None) in FULL_DISK or any(
        f"(os error {number})" in str(error) for number in FULL_DISK
    )
    return RunError(
        f"the model could not be written to {folder}: {getattr(error, 'strerror', None) or error}",
        hint="free some space, or name a folder on another disk; nothing was left half-written"
        if full
        else "name a folder that can be written; nothing was left half-written",
    )
