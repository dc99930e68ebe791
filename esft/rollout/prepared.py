"""Rows as tokens, made once and used by every member."""

from dataclasses import dataclass

from esft.rollout.choice import encode_option
from esft.rollout.generate import encode_prompt
from esft.rollout.logprobs import Continuation
from esft.rollout.reference import encode_reference
from esft.tasks.task import Row


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Rows with their tokens; a tuple is empty where nothing looks at it."""

    rows: tuple[Row, ...]
    prompts: tuple[tuple[int, ...], ...] = ()
    options: tuple[tuple[Continuation, ...], ...] = ()
    references: tuple[Continuation, ...] = ()

    def take(self, places: list[int]) -> "Prepared":
        """Return the rows at `places`, in that order."""
        return Prepared(
            rows=tuple(self.rows[i] for i in places),
            prompts=tuple(self.prompts[i] for i in places) if self.prompts else (),
            options=tuple(self.options[i] for i in places) if self.options else (),
            references=tuple(self.references[i] for i in places) if self.references else (),
        )

    def needs(self, max_new_tokens: int) -> list[int]:
        """Return the tokens that each row takes at most, with its answer."""
        return [self._need(i, max_new_tokens) for i in range(len(self.rows))]

    def _need(self, i: int, max_new_tokens: int) -> int:
        whole = list(self.options[i]) if self.options else []
        if self.references:
            whole.append(self.references[i])
        needs = [len(each.tokens) + 1 for each in whole]
        if self.prompts:
            needs.append(len(self.prompts[i]) + max_new_tokens)
        return max(needs)


def tokenized(
    model, tokenizer, rows: tuple[Row, ...], scoring: str, *, with_references: bool
) -> Prepared:
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
    prompts: tuple[tuple[int, ...], ...] = ()
    options: tuple[tuple[Continuation, ...], ...] = ()
    references: tuple[Continuation, ...] = ()
    if scoring == "generate":
        prompts = tuple(encode_prompt(tokenizer, row) for row in rows)
    if scoring == "choice":
        options = tuple(
            tuple(encode_option(tokenizer, option) for option in row.options) for row in rows
        )
    if with_references and scoring == "choice":
        references = tuple(every[row.gold] for row, every in zip(rows, options, strict=True))
    elif with_references:
        references = tuple(encode_reference(model, tokenizer, row) for row in rows)
    return Prepared(rows=rows, prompts=prompts, options=options, references=references)
