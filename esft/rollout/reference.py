"""Reference answers as tokens: what reward "logprob" looks at."""

from esft.errors import TaskError
from esft.rollout.generate import encode_prompt, stop_tokens
from esft.rollout.logprobs import Continuation
from esft.tasks.task import Row


def encode_reference(model, tokenizer, row: Row) -> Continuation:
    """Return the tokens of a row's prompt and its reference answer.

    The answer goes on from the prompt as a generated one does, and ends with the token that ends
    a turn, where the tokenizer has one that the model stops at: so all its tokens are the argmax
    exactly where the greedy answer is the reference.

    Raises:
        TaskError: if the row has no reference, or one without tokens.
    """
    if row.reference is None:
        raise TaskError(
            f"row {row.id} has no reference answer, expected one: reward is 'logprob'",
            hint="leave the row out, or take another reward of the task",
        )
    prompt = encode_prompt(tokenizer, row)
    text = row.reference.removeprefix(row.opening)
    if tokenizer.chat_template is None and not row.opening:
        text = f" {text}"  # the plain prompt ends with a colon
    answer = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    end = tokenizer.eos_token_id
    if end in stop_tokens(model, tokenizer):
        answer = (*answer, end)
    if not prompt or not answer:
        raise TaskError(
            f"row {row.id} has {len(prompt)} tokens of prompt and {len(answer)} of reference "
            "answer, expected at least one each"
        )
    return Continuation(prompt + answer[:-1], answer)
