"""Where a repository of the hub lies on this disk, downloaded where the cache lacks it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esft.errors import ModelError
from esft.models.check import no_safetensors, weight_files

_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]


def fetch_small_files(repo: str, *, code: bool) -> Path:
    """Return the folder in the cache with all of `repo` but its weights; its name is the commit.

    Args:
        repo: its id.
        code: whether to fetch Python files too.

    Raises:
        ModelError: if it is not there, gated, or out of reach, or the disk is full.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = [*_SMALL_FILES, "*.py"] if code else _SMALL_FILES
    with _clear_errors(repo):
        try:
            # Subfolders hold other forms of the same model: onnx/, original/.
            return Path(snapshot_download(repo, allow_patterns=patterns, ignore_patterns="*/*"))
        except LocalEntryNotFoundError as error:
            # Filled by a program that took fewer files, the cache may still hold all it needs.
            snapshot = getattr(error, "snapshot_path", None)
            if snapshot is not None and Path(snapshot, "config.json").exists():
                return Path(snapshot)
            raise


def fetch_weights(repo: str, folder: Path) -> None:
    """Bring the safetensors files of `repo` to the folder that `fetch_small_files` returned.

    Raises:
        ModelError: as there, or if it has none.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with _clear_errors(repo):
        for file in weight_files(folder, repo):
            try:
                hf_hub_download(repo, file, revision=folder.name)
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError as error:
                raise no_safetensors(repo) from error


@contextmanager
def _clear_errors(repo: str) -> Iterator[None]:
    """Turn what huggingface_hub raises about `repo` into a ModelError that says what to do."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repo} is gated: its owner gives it to those who accept its terms",
            hint=f"accept them on {hub}/{repo}, then log in with `hf auth login`",
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ModelError(
            f"{repo} was not found on {hub}",
            hint="check the name; if it is private, log in with `hf auth login`",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(repo) from error
    except errors.HfHubHTTPError as error:
        raise ModelError(
            f"{repo}: {hub} answered {error.response.status_code}",
            hint="try again later; too many requests: log in with `hf auth login`",
        ) from error
    except errors.HTTPError as error:  # the base class of all that its HTTP client raises
        raise ModelError(
            f"{repo}: the connection to {hub} failed: {error}",
            hint="run the command again: files that are whole are not downloaded again",
        ) from error
    except OSError as error:
        raise ModelError(
            f"{repo} cannot be stored in {constants.HF_HUB_CACHE}: {error.strerror or error}",
            hint="free some space, or set HF_HOME to a folder on another disk",
        ) from error


def _unreachable(repo: str) -> ModelError:
    from huggingface_hub import constants

    cache = constants.HF_HUB_CACHE
    if constants.HF_HUB_OFFLINE:
        return ModelError(
            f"{repo} is not, or not wholly, in the cache {cache}, and HF_HUB_OFFLINE forbids to "
            "look elsewhere",
            hint=f"where there is network: hf download {repo}; or name a local folder",
        )
    return ModelError(
        f"{repo} was looked for on {constants.ENDPOINT}, which cannot be reached, and in the cache "
        f"{cache}, which does not hold it",
        hint=f"to work offline, fill the cache where there is network (hf download {repo}), "
        "copy it here and set HF_HUB_OFFLINE=1; or name a local folder",
    )
