"""Whether a folder holds a checkpoint that can be tuned, seen before anything is loaded."""

import json
import re
from pathlib import Path

from esft.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
FLOATS = ("F64", "F32", "F16", "BF16")


def check_files(folder: Path, name: str, *, trust_remote_code: bool) -> None:
    """Check everything in `folder` but the weights: they may not have been downloaded yet.

    Raises:
        ModelError: if it is no causal language model with a tokenizer, or not one that can be
            tuned: an adapter, quantized, in need of code of its own.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{name} is an adapter (adapter_config.json), expected a whole model",
            hint="merge it into its base model first (peft: merge_and_unload), then save that",
        )
    config = _read_config(folder, name)
    if config.get("transformers_weights", WEIGHTS) not in (WEIGHTS, INDEX):
        raise no_safetensors(name, [str(config["transformers_weights"])])
    _check_not_quantized(config, name)
    _check_architecture(config, name, trust_remote_code)
    if not any((folder / file).exists() for file in TOKENIZER_FILES):
        raise ModelError(
            f"{name} has no tokenizer, expected tokenizer.json or another tokenizer's files",
            hint="put the tokenizer's files of its base model into the same folder",
        )


def weight_files(folder: Path, name: str) -> list[str]:
    """Names of the safetensors files that `folder` has, or should have."""
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [WEIGHTS]
    places = _read_json(folder / INDEX, name).get("weight_map")
    files = sorted(set(places.values())) if isinstance(places, dict) else []
    if not files or not all(re.fullmatch(r"[\w.-]+\.safetensors", str(file)) for file in files):
        raise ModelError(
            f"{name}: the weight_map of {INDEX} names no or other files than *.safetensors",
            hint="copy or download the checkpoint again",
        )
    return files


def check_weights(folder: Path, name: str) -> None:
    """Check the safetensors files in `folder` as far as their headers tell.

    Raises:
        ModelError: if there are none (pickles are never loaded), one is missing, damaged or
            cut short, or weights in them are quantized.
    """
    files = weight_files(folder, name)
    missing = [file for file in files if not (folder / file).exists()]
    if missing == [WEIGHTS]:
        raise no_safetensors(name, [path.name for kind in PICKLES for path in folder.glob(kind)])
    if missing:
        raise ModelError(
            f"{name} lacks {missing[0]}, one of {len(files)} files of weights",
            hint="copy or download the checkpoint again",
        )
    for file in files:
        _check_header(folder / file, name)


def no_safetensors(name: str, pickles: list[str] = ()) -> ModelError:
    """The error for a checkpoint without safetensors weights, naming the `pickles` it has."""
    if not pickles:
        return ModelError(
            f"{name} has no weights as safetensors, expected {WEIGHTS}",
            hint="weights as .bin or .pth are pickles, which can run any code when loaded: "
            "take a checkpoint with safetensors, or convert one that you trust",
        )
    return ModelError(
        f"{name} has its weights as pickles only ({sorted(pickles)[0]}), expected {WEIGHTS}; "
        "pickles can run any code when loaded, so esft does not load them",
        hint="if you trust it, convert it once: load it with transformers "
        "(AutoModelForCausalLM.from_pretrained) and write it with save_pretrained",
    )


def _read_config(folder: Path, name: str) -> dict:
    if not (folder / "config.json").exists():
        gguf = sorted(path.name for path in folder.glob("*.gguf"))
        raise ModelError(
            f"{name} has no config.json, expected a checkpoint in Hugging Face form",
            hint=f"name the file itself: {folder / gguf[0]}"
            if gguf
            else "name a folder with config.json, model.safetensors and tokenizer.json; "
            "of a repository of .gguf files, download one and name that",
        )
    return _read_json(folder / "config.json", name)


def _read_json(path: Path, name: str) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"{name}: {path.name} is no JSON: {error}", hint="copy or download it again"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{name}: {path.name} holds no JSON object", hint="download it again")
    return value


def _check_not_quantized(config: dict, name: str) -> None:
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for part in parts:
        scheme = part.get("quantization_config") or part.get("compression_config")
        if scheme:
            method = scheme.get("quant_method") if isinstance(scheme, dict) else None
            raise quantized(name, f"quantization_config: {method or 'unnamed'}")


def quantized(name: str, what: str) -> ModelError:
    """The error for a checkpoint whose weights are quantized, as `what` shows."""
    return ModelError(
        f"{name} is quantized ({what}), expected floating-point weights: "
        "quantized weights cannot be tuned yet",
        hint="take the checkpoint it was made from",
    )


def _check_architecture(config: dict, name: str, trust_remote_code: bool) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, classes = config.get("model_type"), config.get("architectures") or []
    if kind not in CONFIG_MAPPING_NAMES:
        if trust_remote_code and "auto_map" in config:
            return
        raise _unknown_kind(name, kind, has_code="auto_map" in config)
    class_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    fits = any(
        listed == class_name or listed.endswith(CAUSAL_ENDINGS) for listed in map(str, classes)
    )
    if class_name is None or config.get("is_encoder_decoder") or (classes and not fits):
        raise ModelError(
            f"{name} is no causal language model: model_type {kind}, "
            f"architectures {', '.join(map(str, classes)) or 'none'}",
            hint="esft tunes models that continue a text, such as Qwen2.5-1.5B",
        )


def _unknown_kind(name: str, kind: object, has_code: bool) -> ModelError:
    import transformers

    if has_code:
        return ModelError(
            f"{name} needs Python code of its own (model_type {kind}), which runs only if asked",
            hint="read that code; if you trust it: --set model.trust_remote_code=true",
        )
    return ModelError(
        f"{name}: model_type is {kind!r}, which transformers {transformers.__version__} "
        "does not know",
        hint="a newer transformers may: pip install -U transformers",
    )


def _check_header(path: Path, name: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            kinds = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{name}: {path.name} is damaged or cut short: {error}",
            hint="copy or download it again",
        ) from error
    for key, kind in kinds.items():
        # Masks and counters may be integers; loaded as weights, integers would pass for floats.
        if key.endswith("weight") and kind not in FLOATS:
            raise quantized(name, f"{key} is {kind}")
