"""Rows as tokens, made once and used by every member."""

from dataclasses import dataclass, replace

from esft.errors import TaskError
from esft.models.identity import stop_tokens
from esft.rollout.logprobs import Continuation
from esft.tasks.task import Option, Question, Row

_PLAIN = "A model without chat_template (in tokenizer_config.json or chat_template.jinja) is asked "
_PLAIN += "in plain text"


@dataclass(frozen=True, kw_only=True)
class EncodedRow:
    """A row with its tokens; a tuple is empty where nothing looks at it."""

    row: Row
    prompts: tuple[tuple[int, ...], ...] = ()
    """Of each question; not of one that is answered by `options`."""
    options: tuple[Continuation, ...] = ()
    """Those of the row, or of a row that has prompts too, the words of its last questions."""
    references: tuple[Continuation, ...] = ()
    """Of each question; of a row with options the right one."""
    member: int | None = None
    """See `Continuation`."""
    draws: tuple[tuple[int, int], ...] = ()
    """Of each question the noise its answer is drawn with, see `drawn`; where a rollout samples."""

    def of(self, member: int) -> "EncodedRow":
        """Return the row for one of the members that a `BatchedModel` holds."""
        given = (
            tuple(replace(one, member=member) for one in several)
            for several in (self.options, self.references)
        )
        options, references = given
        return replace(self, options=options, references=references, member=member)

    def longest(self, max_new_tokens: int) -> int:
        """Return the tokens that a question takes at most, with its answer."""
        given = [len(one.tokens) + 1 for one in (*self.options, *self.references)]
        return max(given + [len(prompt) + max_new_tokens for prompt in self.prompts])


def encode_row(
    model, tokenizer, row: Row, scoring: str, *, with_references: bool, by_words: bool = False
) -> EncodedRow:
    """Return a row with the tokens that a scoring, "choice", "generate" or "exact", needs.

    With `by_words`, questions that have words to choose from are not generated. TaskError if a
    question has no reference answer where `with_references` asks for one; the model says which
    token ends it.
    """
    prompts, options, references = (), (), ()
    if scoring == "generate":
        chosen = [question for question in row.questions if by_words and question.words]
        generated = row.questions[: len(row.questions) - len(chosen)]
        prompts = tuple(encode_prompt(tokenizer, question) for question in generated)
        options = tuple(encode_word(tokenizer, one, word) for one in chosen for word in one.words)
    if scoring == "choice":
        options = tuple(encode_option(tokenizer, option) for option in row.options)
    if with_references:
        references = (
            (options[row.gold],)
            if scoring == "choice"
            else tuple(encode_reference(model, tokenizer, one, row.id) for one in row.questions)
        )
    return EncodedRow(row=row, prompts=prompts, options=options, references=references)


def encode_prompt(tokenizer, question: Question) -> tuple[int, ...]:
    """Return the tokens of a question: by the chat template where there is one, else plain text.

    A chat template writes its own special tokens, so no second BOS is added. The question's
    opening stands at the end. TaskError if the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        opening = f" {question.opening}" if question.opening else ""
        return tuple(tokenizer(question.prompt + opening)["input_ids"])
    try:
        text = tokenizer.apply_chat_template(
            list(question.messages), tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is a program of its own, which raises what it likes
        roles = ", ".join(message["role"] for message in question.messages)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TaskError(
            f"the model's chat template refuses messages of {roles}: {reason}",
            hint="many templates take no system message, or only user and assistant in turn: put "
            f"what it says into the user's message. {_PLAIN}",
        ) from error
    tokens = tuple(tokenizer(text + question.opening, add_special_tokens=False)["input_ids"])
    if not tokens:
        raise TaskError("the model's chat template makes no tokens of a question", hint=_PLAIN)
    return tokens


def encode_option(tokenizer, option: Option) -> Continuation:
    """Return the tokens of an option; TaskError if context or continuation has none.

    The two are tokenized together and split after the context's own tokens; spaces at the
    context's end go to the continuation; special tokens as the tokenizer adds them.
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
    """Return the tokens of a question and its reference answer; TaskError if it has none.

    The answer goes on from the prompt as a generated one does, and ends with the token that ends
    a turn, where the tokenizer has one that the model stops at: so all its tokens are the argmax
    exactly where the greedy answer is the reference.
    """
    if question.reference is None:
        raise TaskError(
            f"row {row_id} has no reference answer, expected one: reward is 'logprob'",
            hint="leave the row out, or take another reward of the task",
        )
    prompt = encode_prompt(tokenizer, question)
    answer = _answer_tokens(tokenizer, question, question.reference)
    end = tokenizer.eos_token_id
    if end in stop_tokens(model, tokenizer):
        answer = (*answer, end)
    if not prompt or not answer:
        raise TaskError(
            f"row {row_id} has {len(prompt)} tokens of prompt and {len(answer)} of reference "
            "answer, expected at least one each"
        )
    return Continuation(prompt + answer[:-1], answer)


def encode_word(tokenizer, question: Question, word: str) -> Continuation:
    """Return the tokens of a question answered by a word, which goes on as in `encode_reference`,
    and no token that ends it."""
    prompt, answer = encode_prompt(tokenizer, question), _answer_tokens(tokenizer, question, word)
    return Continuation(prompt + answer[:-1], answer)


def _answer_tokens(tokenizer, question: Question, text: str) -> tuple[int, ...]:
    text = text.removeprefix(question.opening)
    if tokenizer.chat_template is None and not question.opening:
        text = f" {text}"  # the plain prompt ends with a colon
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
