"""A model folder on the hub: a repository of one's own that holds what the folder holds."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esft.errors import EsftError

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN; it takes a token that may write"


def open_repository(name: str, endpoint: str | None = None) -> str:
    """Make the repository `name` (org/name) on the hub, unless it is there; return its address.

    A new one is private. It comes before the work, so that what would be refused is refused early.

    Args:
        endpoint: the hub; None takes that of huggingface_hub.

    Raises:
        EsftError: if there is no token, it may not write there, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise EsftError(f"there is no token for the hub, so {name} cannot be written", hint=_LOG_IN)
    with _clear_errors(name):
        return str(HfApi(endpoint=endpoint).create_repo(name, private=True, exist_ok=True))


def push_folder(folder: Path, name: str, endpoint: str | None = None) -> None:
    """Bring all files of a folder to the repository `name`; EsftError as `open_repository`."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    disable_progress_bars()
    try:
        with _clear_errors(name):
            HfApi(endpoint=endpoint).upload_folder(
                repo_id=name, folder_path=folder, commit_message="Model made by esft"
            )
    finally:
        enable_progress_bars()


@contextmanager
def _clear_errors(name: str) -> Iterator[None]:
    """Turn what huggingface_hub raises while it writes to a repository into an EsftError."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.HFValidationError as error:
        raise EsftError(
            f"{name} cannot be the name of a repository, expected OWNER/NAME of letters, digits, "
            "-, _ and .",
            hint="such as --push my-name/my-model",
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise EsftError(
                f"{constants.ENDPOINT} does not let your token write to {name} (status {status})",
                hint=f"is the owner yours? {_LOG_IN}",
            ) from error
        raise EsftError(
            f"{constants.ENDPOINT} refused {name} with status {status}",
            hint="the folder is written: hf upload does the rest when the hub is well again",
        ) from error
    except (errors.HTTPError, errors.OfflineModeIsEnabled, OSError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE")
        reason = "HF_HUB_OFFLINE forbids it" if offline else str(error) or type(error).__name__
        raise EsftError(
            f"{constants.ENDPOINT} cannot be reached to write {name}: {reason}",
            hint="try again where there is network; leave --push out to write the folder alone",
        ) from error
