"""Options as tokens, cut as lm-evaluation-harness cuts them."""

from esft.errors import TaskError
from esft.rollout.logprobs import Continuation
from esft.tasks.task import Option


def encode_option(tokenizer, option: Option) -> Continuation:
    """Return the tokens of an option.

    Context and continuation are tokenized together and split after the context's own tokens;
    spaces at the context's end go to the continuation; special tokens as the tokenizer adds them.

    Raises:
        TaskError: if the context has no token or the continuation adds none.
    """
    context = option.context.rstrip()
    whole = tokenizer(option.context + option.continuation)["input_ids"]
    split = len(tokenizer(context)["input_ids"])
    if split == 0 or split >= len(whole):
        raise TaskError(
            f"context {option.context[-40:]!r} with option {option.continuation[:40]!r} has "
            f"{split} and {len(whole) - split} tokens, expected at least one each"
        )
    return Continuation(tuple(whole[:-1]), tuple(whole[split:]))
