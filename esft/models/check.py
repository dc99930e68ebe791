"""Whether a checkpoint can be tuned: its files before anything is loaded, then what was loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esft.errors import ModelError
from esft.files import parse, read_file
from esft.models.device import DTYPES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
_OBJECTS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_MOST_LAYERS = 1000  # no published model has as many; building a million takes hours
_AGAIN = "copy or download it again"

Header = tuple[str, Sequence[int]]
"""Of a tensor in a safetensors file: dtype as that names it (BF16), and shape."""
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of an element, by such a dtype."""
_OTHERS = "config.json and the weights belong to different models: download both again"


def check_files(folder: Path, name: str, codes: bool = False) -> None:
    """Check everything in `folder` but the weights: they may not have been downloaded yet.

    `codes`: it may be quantized.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{name} is an adapter (adapter_config.json), expected a whole model",
            hint="merge it into its base model first (peft: merge_and_unload), then save that",
        )
    if not (folder / "config.json").exists():
        gguf = sorted(path.name for path in folder.glob("*.gguf"))
        raise ModelError(
            f"{name} has no config.json, expected a checkpoint in Hugging Face form",
            hint=f"name the file itself: {folder / gguf[0]}"
            if gguf
            else "name a folder with config.json, model.safetensors and tokenizer.json; "
            "of a repository of .gguf files, download one and name that",
        )
    # transformers passes over what is no file, and over a generation config that it cannot read.
    for path in (path for kind in _SMALL_FILES for path in folder.glob(kind)):
        if not path.is_file():
            raise ModelError(f"{name}: {path.name} is not a file", hint=_AGAIN)
    config, *_ = [
        _read_json(folder / file, name)
        for file in ("config.json", *_OBJECTS)
        if (folder / file).exists()
    ]
    check_layers(config, name)
    if config.get("transformers_weights", _WEIGHTS) not in (_WEIGHTS, _INDEX):
        raise no_safetensors(name, [str(config["transformers_weights"])])
    for part in (config, *(part for part in config.values() if isinstance(part, dict))):
        scheme = part.get("quantization_config") or part.get("compression_config")
        if scheme and not codes:
            method = scheme.get("quant_method") if isinstance(scheme, dict) else None
            raise _quantized(name, f"quantization_config: {method or 'unnamed'}")
    classes = config.get("architectures") or []
    if not isinstance(classes, list):
        raise ModelError(f"{name}: architectures of config.json is no list", hint=_AGAIN)
    classes = list(map(str, classes))
    causal = "auto_map" in config or any(listed.endswith(_CAUSAL_ENDINGS) for listed in classes)
    if config.get("is_encoder_decoder") or (classes and not causal):
        raise ModelError(
            f"{name} is not a causal language model: model_type {config.get('model_type')}, "
            f"architectures {', '.join(classes) or 'none'}",
            hint="esft tunes models that continue a text, such as Qwen2.5-1.5B",
        )


def check_layers(config: dict[str, object], name: str) -> None:
    """Check the numbers of layers in a config, also in its parts, before anything is made of it."""
    for part in (config, *(part for part in config.values() if isinstance(part, dict))):
        for key, count in part.items():
            least = 1 if key in _LAYERS else -math.inf
            if "layer" in str(key) and type(count) is int and not least <= count <= _MOST_LAYERS:
                raise ModelError(
                    f"{name}: {key} of its config is {count}, expected 1 to {_MOST_LAYERS}",
                    hint=_AGAIN,
                )


def weight_files(folder: Path, name: str) -> list[str]:
    """Return the names of the safetensors files that `folder` has, or should have."""
    if (folder / _WEIGHTS).exists() or not (folder / _INDEX).exists():
        return [_WEIGHTS]
    weight_map = _read_json(folder / _INDEX, name).get("weight_map")
    files = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    if not files or not all(re.fullmatch(r"[\w.-]+\.safetensors", file) for file in files):
        raise ModelError(
            f"{name}: the weight_map of {_INDEX} names no or other files than *.safetensors",
            hint=_AGAIN,
        )
    return files


def check_weights(folder: Path, name: str, expected: int, codes: bool = False) -> dict[str, Header]:
    """Check the safetensors files in `folder` as far as their headers tell; no pickle will do.

    `expected` is the number of weights that the config calls for, which may be `codes`. Returns the
    headers, by name.
    """
    from safetensors import SafetensorError, safe_open

    files = weight_files(folder, name)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing == [_WEIGHTS]:
        raise no_safetensors(name, [path.name for kind in _PICKLES for path in folder.glob(kind)])
    if missing:
        raise ModelError(
            f"{name} lacks {missing[0]}, one of {len(files)} files of weights", hint=_AGAIN
        )
    headers: dict[str, Header] = {}
    for file in files:
        try:
            with safe_open(folder / file, framework="pt") as stored:
                slices = {key: stored.get_slice(key) for key in stored.keys()}  # noqa: SIM118
                headers |= {k: (one.get_dtype(), one.get_shape()) for k, one in slices.items()}
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{name}: {file} is damaged or cut short: {error}", hint=_AGAIN
            ) from error
    if not codes:
        check_headers(headers, name, expected)
    return headers


def check_headers(headers: Mapping[str, Header], name: str, expected: int) -> None:
    """Check the headers of all safetensors files of a model of floats; see `check_weights`."""
    for key, (kind, _) in headers.items():
        # Masks and counters may be integers; as weights, integers would pass for floats.
        if key.endswith("weight") and kind not in FLOATS:
            raise _quantized(name, f"{key} is {kind}")
    there = sum(math.prod(shape) for _, shape in headers.values())
    if expected > 2 * there:  # twice: embeddings may be tied in the file and not in the model
        raise ModelError(
            f"{name}: config.json calls for {expected:,} weights, the files hold {there:,}",
            hint=_OTHERS,
        )


def check_loaded(model: PreTrainedModel, info: dict, name: str) -> None:
    """Check that every weight came from the checkpoint, in shape, as finite floats or codes."""
    from esft.engine.coded import coded_of

    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"{name} lacks {missing[0]}{and_more(missing)}, which its config.json calls for; "
            "transformers would fill in random numbers",
            hint="take the whole checkpoint of a causal language model: all parts of a split one, "
            "the base merged in where this is an adapter",
        )
    if info["mismatched_keys"]:
        key, shape, expected = sorted(info["mismatched_keys"])[0]
        raise ModelError(
            f"{name}: {key} has shape {tuple(shape)}, config.json expects {tuple(expected)}",
            hint=_OTHERS,
        )
    ends = model.generation_config.eos_token_id
    if not all(
        type(end) is int
        for end in (ends if isinstance(ends, list) else [0 if ends is None else ends])
    ):
        raise ModelError(
            f"{name}: eos_token_id is {ends!r:.60}, expected whole numbers: answers end there",
            hint=_AGAIN,
        )
    coded = coded_of(model)
    for key, parameter in model.named_parameters():
        if key in coded:
            continue
        kind = str(parameter.dtype).removeprefix("torch.")
        if not parameter.is_floating_point() or parameter.itemsize < 2:
            raise _quantized(name, f"{key} is {kind}")
        if kind not in DTYPES:
            raise ModelError(
                f"{name}: {key} is {kind}, expected one of {', '.join(DTYPES)}",
                hint="name a dtype: --dtype float32",
            )
    _check_finite(model, name)


def check_forward(model: PreTrainedModel) -> None:
    """Let the model look at one token; whatever is raised where its config's values do not fit."""
    import torch

    with torch.inference_mode():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device)).logits  # noqa: B018


def no_safetensors(name: str, pickles: list[str] = ()) -> ModelError:
    weights = "no weights as safetensors"
    if pickles:
        weights = f"its weights as pickles only ({sorted(pickles)[0]})"
    return ModelError(
        f"{name} has {weights}, expected {_WEIGHTS}; pickles can run any code when loaded, so esft "
        "does not load them",
        hint="take a checkpoint with safetensors, or convert this one if you trust it: load it "
        "with transformers (AutoModelForCausalLM.from_pretrained), write it with save_pretrained",
    )


def and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _check_finite(model: PreTrainedModel, name: str) -> None:
    import torch

    bad = []
    named = [(key, one) for key, one in model.named_parameters() if one.is_floating_point()]
    for key, parameter in [*named, *model.named_buffers()]:
        if not parameter.is_floating_point():
            continue
        # One pass that allocates nothing; NaN comes out as NaN.
        if parameter.numel() and not torch.stack(parameter.detach().aminmax()).isfinite().all():
            bad.append(key)
    if bad:
        first = dict([*named, *model.named_buffers()])[bad[0]]
        kind = "NaN" if first.isnan().any() else "infinite values"
        raise ModelError(
            f"{name}: {bad[0]} holds {kind}{and_more(bad)}, expected finite numbers",
            hint="weights that do not fit float16 become infinite: try bfloat16 or float32"
            if model.dtype == torch.float16
            else "the checkpoint is damaged: download it again, or take another",
        )


def _read_json(path: Path, name: str) -> dict:
    try:
        value = parse(read_file(path))
    except OSError as error:
        raise ModelError(f"{name}: {path.name} cannot be read: {error}", hint=_AGAIN) from error
    except ValueError as error:
        raise ModelError(f"{name}: {path.name} is not JSON: {error}", hint=_AGAIN) from error
    if not isinstance(value, dict):
        raise ModelError(f"{name}: {path.name} does not hold a JSON object", hint=_AGAIN)
    return value


def _quantized(name: str, reason: str) -> ModelError:
    return ModelError(
        f"{name} is quantized ({reason}), expected floating-point weights",
        hint="--weights codes tunes its codes, of some kinds; or take the checkpoint it was made "
        "from",
    )
