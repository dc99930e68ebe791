"""What a model's name means: a folder, a .gguf file or a repository of the hub."""

import os
import re
from difflib import get_close_matches
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

_FAMILIES = (
    ("Qwen2.5-", ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B"), ("", "-Instruct")),
    ("Qwen3-", ("0.6B", "1.7B", "4B", "8B", "14B"), ("", "-Base")),
    ("Llama-3.1-", ("8B", "70B"), ("", "-Instruct")),
    ("Llama-3.2-", ("1B", "3B"), ("", "-Instruct")),
    ("SmolLM2-", ("135M", "360M", "1.7B"), ("", "-Instruct")),
    ("SmolLM3-", ("3B",), ("", "-Base")),
    ("gemma-2-", ("2b", "9b", "27b"), ("", "-it")),
    ("gemma-3-", ("270m", "1b"), ("-pt", "-it")),
)
KNOWN_NAMES = tuple(
    family + size + variant
    for family, sizes, variants in _FAMILIES
    for size in sizes
    for variant in variants
)
"""Short names that are sure to exist: what a misspelt one is compared with."""

FORMS = (
    "a short name (Qwen2.5-1.5B), a hub id (Qwen/Qwen2.5-1.5B-Instruct), "
    "a folder (./my-model), a .gguf file, or embedded, the tiny model that comes with esft"
)


def find_model(name: str) -> Path | str:
    """Where the model called `name` is: a path that exists, or the id of a hub repository.

    "embedded" is the model that comes with esft; a folder of that name is ./embedded. Any other
    existing folder or .gguf file wins over a repository of the same name.

    Raises:
        ModelError: if `name` is none of these, with the nearest names.
    """
    if name == "embedded":
        return EMBEDDED
    path = os.path.expanduser(name)
    if os.path.exists(path):
        return _check_local(Path(path))
    if _looks_like_path(name):
        raise ModelError(
            f"model {name}: no such file or folder",
            hint=f"expected {FORMS}",
        )
    if "/" in name:
        return name
    return _expand_short_name(name)


def nearest_names(name: str) -> list[str]:
    """At most three known short names that `name` may have meant."""
    lower = {known.lower(): known for known in KNOWN_NAMES}
    return [lower[match] for match in get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]


def _check_local(path: Path) -> Path:
    if path.is_dir() or path.suffix.lower() == ".gguf":
        return path
    raise ModelError(
        f"model {path} is a file but no .gguf file",
        hint=f"name the folder it is in: {path.parent}" if path.suffix == ".safetensors" else None,
    )


def _looks_like_path(name: str) -> bool:
    hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name)
    return name.lower().endswith(".gguf") or (
        not hub_id and (name.startswith(("~", ".")) or "/" in name or os.sep in name)
    )


def _expand_short_name(name: str) -> str:
    # Owners on the hub write their names in their own mix of cases: qwen2.5-1.5b is welcome too.
    known = {known.lower(): known for known in KNOWN_NAMES}
    name = known.get(name.lower(), name)
    for pattern, owner in OWNERS:
        if re.fullmatch(pattern, name):
            return f"{owner}/{name}"
    nearest = nearest_names(name)
    raise ModelError(
        f"model {name!r} is not known"
        + (f"; the nearest names are {', '.join(nearest)}" if nearest else ""),
        hint=f"expected {FORMS}",
    )
