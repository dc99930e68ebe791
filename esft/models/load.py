"""Load a language model and its tokenizer, checked and ready to be tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from esft.errors import ModelError
from esft.models.calling import clear_config, clear_errors, load_tokenizer, quiet
from esft.models.check import (
    and_more,
    check_files,
    check_forward,
    check_loaded,
    check_weights,
)
from esft.models.coded_model import coded_note, quantize_
from esft.models.device import FLOAT, WEIGHTS, choose_device, choose_gguf_dtype, parse_dtype
from esft.models.find import fetch_small_files, fetch_weights, find_model
from esft.models.gguf_file import gguf_config_and_tokenizer, read_once
from esft.models.identity import parts_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


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
    """Of the parameters; of a quantized model that of its floats, in which it computes."""
    parts: Mapping[str, str]
    """Sha256 of what else changes an answer, see `parts_of`."""
    folder: Path | None = None
    """Where its safetensors files lie on this disk; None for a .gguf file."""
    notes: tuple[str, ...] = ()
    """What to tell the user: choices made for them, things that are not there."""
    borrowed_pad: bool = False
    """The checkpoint has no pad token: the tokenizer's was set here and is not saved."""

    @property
    def lasting_id(self) -> str:
        """The name that gives the same files later: of a model on the hub, with its commit."""
        return self.id if Path(self.source).is_absolute() else self.source


def load_model(
    id: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    weights: str = FLOAT,
) -> LoadedModel:
    """Load the model called `id`, every weight of it from the checkpoint, all finite.

    Args:
        id: short name, hub id, folder or .gguf file, as `find_model` reads it.
        dtype: float32, float16 or bfloat16; None takes the checkpoint's own, and for a .gguf
            file, or codes, what the device computes in.
        device: cuda, cuda:N, mps or cpu; None takes the first that this machine has.
        trust_remote_code: run Python code that comes with the checkpoint.
        weights: one of `WEIGHTS`.

    Raises:
        ModelError: if there is no such model, device or dtype, or it cannot be tuned.
    """
    on = choose_device(device)
    import torch

    if weights not in WEIGHTS:
        raise ModelError(
            f"weights is {weights!r}, expected {', '.join(WEIGHTS)}", hint="--weights int8, say"
        )
    # Straight to the device, without a copy of all weights in memory first.
    here = on.type == "cpu" or weights != FLOAT
    options = {"device_map": None if here else {"": on}, "output_loading_info": True}
    wanted = None if dtype is None else parse_dtype(dtype)
    computes, why = choose_gguf_dtype(on) if wanted is None else (wanted, "as asked for")
    where, folder = find_model(id), None
    with quiet(), clear_errors(str(where)):
        if isinstance(where, Path) and where.is_file():
            source = str(where.absolute())
            # Quantized from what the file says, not from what that is rounded to.
            options["dtype"] = torch.float32 if weights in ("int8", "int4") else computes
            (model, info), tokenizer, notes = _load_file(where, weights, why, options)
        else:
            folder = where
            if isinstance(where, str):
                folder = fetch_small_files(where, code=trust_remote_code)
                where = where.partition("@")[0]
            folder, notes = folder.absolute(), []
            source = f"{where}@{folder.name}" if isinstance(where, str) else str(folder)
            options["dtype"] = "auto" if wanted is None or weights != FLOAT else wanted
            rest = trust_remote_code, computes if weights == "codes" else options
            load = _load_packed if weights == "codes" else _load_checkpoint
            (model, info), tokenizer = load(where, folder, *rest)
    check_loaded(model, info, str(where))
    if weights != FLOAT:
        if weights != "codes":
            quantize_(model, weights, computes, str(where))
            notes = []
        notes = [coded_note(model, why), *notes]
        model.to(on)
    model.eval().requires_grad_(False)
    parts = parts_of(model, tokenizer)
    with clear_errors(str(where)), clear_config(str(where)):
        check_forward(model)
    pad = _borrow_pad(tokenizer)
    notes += _notes(info, tokenizer, pad)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        id=id,
        source=source,
        device=model.device,
        dtype=model.dtype,
        parts=parts,
        folder=folder,
        notes=tuple(notes),
        borrowed_pad=pad is not None,
    )


def _load_file(
    path: Path, weights: str, why: str, options: dict[str, object]
) -> tuple[tuple[PreTrainedModel, dict], PreTrainedTokenizerBase, list[str]]:
    """Load a .gguf file, with what to say of it; `why` it has its dtype."""
    if weights == "codes":
        return _load_gguf_codes(path, options["dtype"])
    note = f"{path.name}: weights dequantized to {_plain(options['dtype'])}, {why}"
    return *_load_gguf(path, **options), [note]


def _load_checkpoint(
    where: Path | str, folder: Path, trust_remote_code: bool, loading: dict[str, object]
) -> tuple[tuple[PreTrainedModel, dict], PreTrainedTokenizerBase]:
    """Load a folder or a hub id, the weights last: what cannot be tuned is refused before."""
    from transformers import AutoModelForCausalLM

    name, on_hub = str(where), isinstance(where, str)
    config, tokenizer, options = config_and_tokenizer(where, folder, trust_remote_code)
    with clear_config(name):
        outline = None if trust_remote_code else outline_of(config)
    if on_hub:
        fetch_weights(name, folder)
    expected = 0 if outline is None else sum(weight.numel() for weight in outline.parameters())
    check_weights(folder, name, expected)
    # Mismatched sizes are reported in info, and refused by name.
    options |= {"use_safetensors": True, "ignore_mismatched_sizes": True} | loading
    return AutoModelForCausalLM.from_pretrained(name, **options), tokenizer


def _load_packed(
    where: Path | str, folder: Path, trust_remote_code: bool, dtype: torch.dtype
) -> tuple[tuple[PreTrainedModel, dict], PreTrainedTokenizerBase]:
    """Load a folder or a hub id that is quantized, its matrices as the codes that it has."""
    from esft.models.packed_model import packed_model

    name = str(where)
    config, tokenizer, _ = config_and_tokenizer(where, folder, trust_remote_code, codes=True)
    if isinstance(where, str):
        fetch_weights(name, folder)
    headers = check_weights(folder, name, 0, codes=True)
    return (packed_model(folder, config, headers, dtype, name), _NO_INFO), tokenizer


def config_and_tokenizer(
    where: Path | str, folder: Path, trust_remote_code: bool, codes: bool = False
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase, dict[str, object]]:
    """Return what a folder or a hub id has beside its weights, which may be `codes`, checked, and
    the options of transformers that find it."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    # A hub id stays a hub id, since transformers treats some tokenizers by it.
    name, on_hub = str(where), isinstance(where, str)
    check_files(folder, name, codes)
    options = {
        "revision": folder.name if on_hub else "main",
        "local_files_only": True,  # everything has been fetched
        "trust_remote_code": trust_remote_code,
    }
    with clear_config(name):
        config = AutoConfig.from_pretrained(name, **options)
        if (folder / "generation_config.json").exists():
            GenerationConfig.from_pretrained(name, **options)
    return config, load_tokenizer(AutoTokenizer, name, name, **options), options


def outline_of(config: PreTrainedConfig) -> PreTrainedModel | None:
    """Return the model of a config on torch's meta device, where weights take no memory, however
    many there are; None if a part of it computes with what it makes. Whatever is raised where the
    config makes no model."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        try:
            return AutoModelForCausalLM.from_config(config)
        except (RuntimeError, NotImplementedError) as error:
            if "meta" not in str(error):
                raise
            return None


def _load_gguf(
    path: Path, **options: object
) -> tuple[tuple[PreTrainedModel, dict], PreTrainedTokenizerBase]:
    """Load a .gguf file, its weights dequantized."""
    from transformers import AutoModelForCausalLM

    try:
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    except ImportError:
        pass  # before it came, transformers always dequantized
    with TemporaryDirectory(prefix="esft-gguf-") as empty, read_once():
        config, tokenizer = gguf_config_and_tokenizer(path, empty)
        with clear_config(str(path)):
            outline_of(config)
        options["gguf_file"] = str(path.resolve())
        loaded = AutoModelForCausalLM.from_pretrained(empty, config=config, **options)
    loaded[0].config.name_or_path = tokenizer.name_or_path = str(path)
    return loaded, tokenizer


_NO_INFO: dict = {"missing_keys": (), "mismatched_keys": (), "unexpected_keys": ()}


def _load_gguf_codes(
    path: Path, dtype: torch.dtype
) -> tuple[tuple[PreTrainedModel, dict], PreTrainedTokenizerBase, list[str]]:
    """Load a .gguf file, its matrices as the codes that they are there."""
    from transformers import GenerationConfig

    from esft.models.gguf_tensors import gguf_model

    with TemporaryDirectory(prefix="esft-gguf-") as empty, read_once():
        config, tokenizer = gguf_config_and_tokenizer(path, empty)
        model, notes = gguf_model(path, config, dtype)
    model.generation_config = GenerationConfig.from_model_config(config)
    model.config.name_or_path = tokenizer.name_or_path = str(path)
    return (model, _NO_INFO), tokenizer, notes


def _borrow_pad(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Give a tokenizer that has no pad token one of its other tokens, and return that.

    Padding is always masked, so any token does: eos, or the one with id 0. Saved, the tokenizer
    would split texts at it; in memory it goes on giving the same tokens for the same text.
    """
    if tokenizer.pad_token_id is not None:
        return None
    tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer.pad_token


def _notes(info: dict, tokenizer, pad: str | None) -> Iterator[str]:
    unused = sorted(info["unexpected_keys"])
    if unused:
        some = unused[0] + and_more(unused)
        yield f"the model does not use all tensors of its checkpoint: {some}"
    if tokenizer.chat_template is None:
        yield "the tokenizer has no chat template: prompts go in plain"
    if pad is not None:
        yield f"the tokenizer has no pad token: {pad} pads, always masked"


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
