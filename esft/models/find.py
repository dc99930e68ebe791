"""Where a model lies: what its name means, and its files, downloaded where the cache lacks them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esft.embedded import EMBEDDED
from esft.errors import ModelError
from esft.hub import DownloadBar, is_reachable
from esft.models.check import Header, no_safetensors, weight_files

_OWNERS = (
    (r"Qwen\d[\w.]*-.+", "Qwen"),
    (r"(Meta-)?Llama-\d.*", "meta-llama"),
    (r"SmolLM\d?-.+", "HuggingFaceTB"),
    (r"gemma-\d.*", "google"),
)
"""Pattern of a family's short names, owner of its repositories on the hub."""

_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
_FORMS = (
    "expected a short name (Qwen2.5-1.5B, Llama-3.2-1B, SmolLM2-135M, gemma-3-1b-it), "
    "a hub id (Qwen/Qwen2.5-1.5B-Instruct, @ and a commit behind it where it must be that one), "
    "a folder (./my-model), a .gguf file, "
    "or embedded, the tiny model that comes with esft"
)


def find_model(name: str) -> Path | str:
    """Return where the model called `name` is: a path that exists, or the id of a hub repository.

    "embedded" is the model that comes with esft; a folder of that name is ./embedded. Any other
    existing folder or .gguf file wins over a repository of the same name. The id of a repository
    may end in @ and a commit, tag or branch.
    """
    if name == "embedded":
        return EMBEDDED
    expanded = os.path.expanduser(name)
    path = Path(expanded)
    is_gguf = path.suffix.lower() == ".gguf"
    if os.path.exists(expanded):
        if path.is_dir() or (is_gguf and path.is_file()):
            return path
        raise ModelError(
            f"model {path} is neither a folder nor a .gguf file",
            hint=f"name the folder it is in: {path.parent}"
            if path.match("*.safetensors")
            else None,
        )
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?", name) and not is_gguf:
        return name
    if is_gguf or name.startswith(("~", ".")) or re.search(r"[/\\]", name):
        raise ModelError(f"model {name}: no such file or folder", hint=_FORMS)
    for pattern, owner in _OWNERS:
        if re.fullmatch(pattern, name):
            return f"{owner}/{name}"
    raise ModelError(f"model {name!r} is not known", hint=_FORMS)


def at_commit(name: str, recorded: str) -> str:
    """Return what to load for the model called `name`: `recorded` (org/name@commit) where it is
    that repository on the hub, at whatever branch or tag; else `name`."""
    where = find_model(name)
    if not isinstance(where, str) or re.fullmatch(r".+@[0-9a-f]{40}", where):
        return name
    return recorded if recorded.startswith(f"{where.partition('@')[0]}@") else name


def fetch_small_files(where: str, *, code: bool) -> Path:
    """Return the folder in the cache with all of a repository but its weights.

    `where` may end in @ and a revision; the folder is called by its commit.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, _, revision = where.partition("@")
    patterns = [*_SMALL_FILES, "*.py"] if code else _SMALL_FILES
    # Subfolders hold other forms of the same model: onnx/, original/.
    wanted = {"allow_patterns": patterns, "ignore_patterns": "*/*"}
    wanted["local_files_only"] = not is_reachable()
    with _clear_errors(where):
        try:
            return Path(snapshot_download(repo, revision=revision or None, **wanted))
        except LocalEntryNotFoundError as error:
            # Filled by a program that took fewer files, the cache may still hold all it needs.
            snapshot = getattr(error, "snapshot_path", None)
            if snapshot is not None and Path(snapshot, "config.json").exists():
                return Path(snapshot)
            raise


def fetch_weights(repo: str, folder: Path) -> None:
    """Bring the safetensors files of `repo` to the folder that `fetch_small_files` returned."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    how = {"local_files_only": not is_reachable(), "tqdm_class": DownloadBar}
    with _clear_errors(repo):
        for file in weight_files(folder, repo):
            try:
                hf_hub_download(repo, file, revision=folder.name, **how)
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError as error:
                raise no_safetensors(repo) from error


def fetch_headers(repo: str, revision: str) -> dict[str, dict[str, Header]]:
    """Return the headers of the safetensors files of `repo` on the hub, by file and tensor."""
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError, OfflineModeIsEnabled

    with _clear_errors(repo):
        if not is_reachable():
            raise OfflineModeIsEnabled
        try:
            files = get_safetensors_metadata(repo, revision=revision).files_metadata
        except NotASafetensorsRepoError as error:
            raise no_safetensors(repo) from error
    return {
        name: {key: (one.dtype, one.shape) for key, one in file.tensors.items()}
        for name, file in files.items()
    }


@contextmanager
def _clear_errors(where: str) -> Iterator[None]:
    """Turn what huggingface_hub raises about a repository, or a revision of it, into a ModelError
    that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.HFValidationError, errors.HTTPError, OSError) as error:
        message, hint = _explain(error, *where.partition("@")[::2])
        raise ModelError(f"{where} {message}", hint=hint) from error


def _explain(error: Exception, repo: str, revision: str) -> tuple[str, str]:
    from huggingface_hub import constants, errors

    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    download = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
    if isinstance(error, errors.GatedRepoError):
        hint = f"accept them on {hub}/{repo}, then log in with `hf auth login`"
        return "is gated: its owner gives it to those who accept its terms", hint
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        hint = "check the name; if it is private, log in with `hf auth login`"
        return f"was not found on {hub}", hint
    if isinstance(error, errors.RevisionNotFoundError):
        hint = f"name one of {hub}/{repo}/commits/main, or a folder that holds the same files"
        return f"was not found on {hub}: the repository has no such commit, tag or branch", hint
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        if constants.HF_HUB_OFFLINE:
            hint = f"where there is network: {download}; or name a local folder"
            where = f"is not, or not wholly, in the cache {cache}"
            return f"{where}, and HF_HUB_OFFLINE forbids to look elsewhere", hint
        hint = f"to work offline, fill the cache where there is network ({download}), "
        hint += "copy it here and set HF_HUB_OFFLINE=1; or name a local folder"
        where = f"was looked for on {hub}, which cannot be reached, and in the cache {cache}"
        return f"{where}, which does not hold it", hint
    if isinstance(error, errors.HfHubHTTPError):
        hint = "try again later; too many requests: log in with `hf auth login`"
        return f"was asked for, and {hub} answered {error.response.status_code}", hint
    if isinstance(error, errors.HTTPError):  # the base class of all that its HTTP client raises
        hint = "run the command again: files that are whole are not downloaded again"
        return f"is not wholly here: the connection to {hub} failed: {error}", hint
    hint = "free some space, or set HF_HOME to a folder on another disk"
    return f"cannot be stored in {cache}: {error.strerror or error}", hint
