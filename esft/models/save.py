"""Write a model to a folder, in Hugging Face form: whole, or not at all."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from esft.files import whole_folder
from esft.models.calling import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from esft.models.load import LoadedModel


_READ = (".json", ".jinja", ".txt", ".model", ".py")
"""Endings of what is read on loading a model, but for its weights."""


def small_files(folder: Path) -> dict[str, str]:
    """Return the sha256 of config, tokenizer and what else of a model's folder is no weights."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in _READ and path.is_file()
    }


def save_model(loaded: LoadedModel, folder: Path, *, replace: bool = False) -> None:
    """Write weights, config, generation config, tokenizer and chat template, all or nothing.

    `AutoModelForCausalLM.from_pretrained(folder)` gives a model with the same bits.

    Raises:
        RunError: if `folder` exists, is not empty and must not be replaced, or cannot be written.
    """
    with whole_folder(Path(folder).absolute(), replace=replace) as partial:
        write_model(loaded, partial)


def write_model(loaded: LoadedModel, folder: Path) -> None:
    """Write the files of `save_model` to a folder that is there and empty; codes as floats."""
    from transformers import GenerationConfig

    from esft.engine.coded import coded_of
    from esft.models.coded_model import as_floats

    model = as_floats(loaded.model, loaded.id) if coded_of(loaded.model) else loaded.model
    generation = model.generation_config
    with quiet():
        # save_pretrained refuses generation configs that some checkpoints come with (a temperature
        # where nothing is sampled); as it came, it is written below.
        model.generation_config = GenerationConfig()
        try:
            model.save_pretrained(folder)
        finally:
            model.generation_config = generation
        generation.to_json_file(folder / "generation_config.json", use_diff=True)
        _save_tokenizer(loaded.tokenizer, folder, drop_pad=loaded.borrowed_pad)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, *, drop_pad: bool) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    if drop_pad:
        tokenizer.pad_token = None
    for how_it_was_loaded in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(how_it_was_loaded, None)
    tokenizer.save_pretrained(folder)
