"""A model's tokenizer: read it, and find something to pad with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esft.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(where: str, name: str, **options: object) -> PreTrainedTokenizerBase:
    """The tokenizer that `transformers` finds at `where`; `name` names the model in errors.

    Raises:
        ModelError: if it cannot be read.
        ImportError: if it needs a package that is not installed.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(where, **options)
    except ImportError:
        raise
    except Exception as error:
        # The tokenizers library raises bare Exception for a file that it cannot read.
        if type(error) is not Exception and not isinstance(error, (OSError, ValueError, KeyError)):
            raise
        raise ModelError(
            f"{name}: its tokenizer cannot be read ({type(error).__name__}: {error})",
            hint="copy or download its files again",
        ) from error


def borrow_pad(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Give a tokenizer that has no pad token one of its other tokens, and return that.

    Padding is always masked, so any token does: eos, or the one with id 0. Saved, the tokenizer
    would split texts at it; in memory it goes on giving the same tokens for the same text.
    """
    if tokenizer.pad_token_id is not None:
        return None
    tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer.pad_token
