"""Rows as tokens, made once and used by every member."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from esft.errors import TaskError
from esft.rollout.generate import stop_tokens
from esft.rollout.logprobs import Continuation
from esft.tasks.task import Option, Question, Row


@dataclass(frozen=True, kw_only=True)
class EncodedRows:
    """Rows with their tokens; a tuple is empty where nothing looks at it."""

    rows: tuple[Row, ...]
    prompts: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """Of each question of each row."""
    options: tuple[tuple[Continuation, ...], ...] = ()
    """Of each row."""
    references: tuple[tuple[Continuation, ...], ...] = ()
    """Of each question of each row; of a row with options the right one."""

    def take(self, indices: Sequence[int]) -> "EncodedRows":
        """Return the rows at `indices`, in that order."""
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        return EncodedRows(
            **{
                name: tuple(column[i] for i in indices if column)
                for name, column in columns.items()
            }
        )

    def longest(self, i: int, max_new_tokens: int) -> int:
        """Return the tokens that row `i` takes at most, with its answer."""
        one = self.take([i])
        given = [text for texts in (*one.options, *one.references) for text in texts]
        lengths = [len(continuation.tokens) + 1 for continuation in given]
        return max(lengths + [len(p) + max_new_tokens for prompts in one.prompts for p in prompts])


def encode_rows(
    model, tokenizer, rows: tuple[Row, ...], scoring: str, *, with_references: bool
) -> EncodedRows:
    """Return rows with the tokens that a scoring needs.

    Args:
        model: says which token ends a reference answer.
        tokenizer: the model's.
        rows: any number of rows.
        scoring: "choice", "generate" or "exact".
        with_references: also those of the right option, or of the reference answer.

    Raises:
        TaskError: if a row has no reference answer where one is asked for.
    """
    prompts, options, references = [], [], []
    for row in rows:
        if scoring == "generate":
            prompts.append(tuple(encode_prompt(tokenizer, asked) for asked in row.questions))
        if scoring == "choice":
            options.append(tuple(encode_option(tokenizer, option) for option in row.options))
        if with_references and scoring == "choice":
            references.append((options[-1][row.gold],))
        elif with_references:
            encoded = [encode_reference(model, tokenizer, asked, row.id) for asked in row.questions]
            references.append(tuple(encoded))
    return EncodedRows(
        rows=rows, prompts=tuple(prompts), options=tuple(options), references=tuple(references)
    )


def encode_prompt(tokenizer, question: Question) -> tuple[int, ...]:
    """Return the tokens of a question: by the chat template where there is one, else plain text.

    A chat template writes its own special tokens, so no second BOS is added. The question's
    opening stands at the end.
    """
    if tokenizer.chat_template is None:
        opening = f" {question.opening}" if question.opening else ""
        return tuple(tokenizer(question.prompt + opening)["input_ids"])
    text = tokenizer.apply_chat_template(
        list(question.messages), tokenize=False, add_generation_prompt=True
    )
    return tuple(tokenizer(text + question.opening, add_special_tokens=False)["input_ids"])


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


def encode_reference(model, tokenizer, question: Question, row_id: str) -> Continuation:
    """Return the tokens of a question and its reference answer.

    The answer goes on from the prompt as a generated one does, and ends with the token that ends
    a turn, where the tokenizer has one that the model stops at: so all its tokens are the argmax
    exactly where the greedy answer is the reference.

    Raises:
        TaskError: if the question has no reference, or one without tokens.
    """
    if question.reference is None:
        raise TaskError(
            f"row {row_id} has no reference answer, expected one: reward is 'logprob'",
            hint="leave the row out, or take another reward of the task",
        )
    prompt = encode_prompt(tokenizer, question)
    text = question.reference.removeprefix(question.opening)
    if tokenizer.chat_template is None and not question.opening:
        text = f" {text}"  # the plain prompt ends with a colon
    answer = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    end = tokenizer.eos_token_id
    if end in stop_tokens(model, tokenizer):
        answer = (*answer, end)
    if not prompt or not answer:
        raise TaskError(
            f"row {row_id} has {len(prompt)} tokens of prompt and {len(answer)} of reference "
            "answer, expected at least one each"
        )
    return Continuation(prompt + answer[:-1], answer)
