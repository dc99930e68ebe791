"""Calling transformers: without its noise, and with its errors in words that help."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import TYPE_CHECKING

from esft.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextmanager
def quiet(*, bars: bool = True) -> Iterator[None]:
    """Inside the block transformers logs errors only, and bars are shown on a terminal only.

    No setting turns off all of them, so elsewhere stderr is kept back; `bars` False does so on a
    terminal too.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        shown = bars and sys.stderr.isatty()
        with nullcontext() if shown else redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def clear_errors(name: str) -> Iterator[None]:
    """Turn what transformers raises about the checkpoint `name` into a ModelError."""
    import torch
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"{name} does not fit into memory: {_first_line(error)}",
            hint="name a smaller dtype (--dtype bfloat16), a smaller model or another device",
        ) from error
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
            f"{name} cannot be loaded: {_first_line(error)}",
            hint="download it again, take another checkpoint, or a newer transformers: "
            "pip install -U transformers",
        ) from error


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
