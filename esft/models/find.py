"""What a model's name means: a folder, a .gguf file or a repository of the hub."""

import os
import re
from pathlib import Path

from esft.embedded import EMBEDDED
from esft.errors import ModelError

OWNERS = (
    (r"Qwen\d[\w.]*-.+", "Qwen"),
    (r"(Meta-)?Llama-\d.*", "meta-llama"),
    (r"SmolLM\d?-.+", "HuggingFaceTB"),
    (r"gemma-\d.*", "google"),
)
"""Pattern of a family's short names, owner of its repositories on the hub."""

_FORMS = (
    "expected a short name (Qwen2.5-1.5B, Llama-3.2-1B, SmolLM2-135M, gemma-3-1b-it), "
    "a hub id (Qwen/Qwen2.5-1.5B-Instruct), a folder (./my-model), a .gguf file, "
    "or embedded, the tiny model that comes with esft"
)


def find_model(name: str) -> Path | str:
    """Where the model called `name` is: a path that exists, or the id of a hub repository.

    "embedded" is the model that comes with esft; a folder of that name is ./embedded. Any other
    existing folder or .gguf file wins over a repository of the same name.

    Raises:
        ModelError: if `name` is none of these.
    """
    if name == "embedded":
        return EMBEDDED
    expanded = os.path.expanduser(name)
    path = Path(expanded)
    is_gguf = path.suffix.lower() == ".gguf"
    if os.path.exists(expanded):
        if path.is_dir() or is_gguf:
            return path
        raise ModelError(
            f"model {path} is a file, but not a .gguf file",
            hint=f"name the folder it is in: {path.parent}"
            if path.match("*.safetensors")
            else None,
        )
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) and not is_gguf:
        return name
    if is_gguf or name.startswith(("~", ".")) or re.search(r"[/\\]", name):
        raise ModelError(f"model {name}: no such file or folder", hint=_FORMS)
    for pattern, owner in OWNERS:
        if re.fullmatch(pattern, name):
            return f"{owner}/{name}"
    raise ModelError(f"model {name!r} is not known", hint=_FORMS)
