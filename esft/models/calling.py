"""Calling transformers: without its noise, and with its errors in words that help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from esft.errors import ModelError
from esft.hub import silent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_OTHER = "download it again, take another checkpoint, or a newer transformers: "
_OTHER += "pip install -U transformers"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back in the block what transformers and the libraries below it write to stderr."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with silent():  # no setting turns off all bars
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def clear_errors(name: str) -> Iterator[None]:
    """Turn what transformers raises about the checkpoint `name` into a ModelError."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except ModelError:
        raise
    except ImportError as error:
        raise ModelError(
            f"{name} needs a package that is not installed: {_first_line(error)}",
            hint="install it with pip",
        ) from error
    except (OSError, ValueError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{name} needs Python code of its own, which runs only if asked",
                hint="read that code; if you trust it: --set model.trust_remote_code=true",
            ) from error
        raise ModelError(
            f"{name} cannot be loaded: {' '.join(str(error).split())}",
            hint=_OTHER,
        ) from error
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise ModelError(
            f"{name} does not fit into memory: {_first_line(error)}",
            hint="name a smaller dtype (--dtype bfloat16), a smaller model or another device",
        ) from error


@contextmanager
def clear_config(name: str) -> Iterator[None]:
    """Turn what transformers stumbles over in the values of a config into a ModelError.

    What `clear_errors` has words for goes on to it.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (ModelError, ImportError, OSError, ValueError, StrictDataclassError):
        raise
    except Exception as error:  # a division by zero, a missing key, a list without an attribute
        if out_of_memory(error):
            raise
        raise ModelError(
            f"{name}: its config makes no model: {type(error).__name__}: {_first_line(error)}",
            hint=_OTHER,
        ) from error


def out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out, on any device."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error) for words in ("can't allocate memory", "out of memory")
    )


def load_tokenizer(kind: type, where: str, name: str, **options: object) -> PreTrainedTokenizerBase:
    """Return the tokenizer that the class `kind` of transformers finds for the model `name`."""
    try:
        tokenizer = kind.from_pretrained(where, **options)
        if not tokenizer("a").input_ids:  # what some kinds become without their files
            raise ValueError("it makes no tokens")
    except ImportError:
        raise
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise ModelError(
            f"{name}: its tokenizer is missing or cannot be read "
            f"({type(error).__name__}: {_first_line(error)})",
            hint="download its files again, or those of its base model, into the same folder",
        ) from error
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
