"""Rollouts: from rows and a model to rewards."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from copy import copy
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import cycle, islice
from typing import Any

from torch import Tensor

from esft.errors import TaskError
from esft.models.identity import stop_tokens
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRow, encode_row
from esft.rollout.generate import Answer, drawn, greedy_answers
from esft.rollout.grading import Grading, one_grader
from esft.rollout.logprobs import Continuation, TeacherForced, teacher_forced
from esft.rollout.options import option_logprobs, tree_span, trees_of
from esft.rollout.results import RowResult
from esft.tasks.task import Row, Task


@dataclass(eq=False)
class Rollout:
    """Scores rows of one task on one model, whose weights may change between calls.

    Raises:
        TaskError: if the task cannot be scored so.
    """

    model: Any
    tokenizer: Any
    task: Task
    _: KW_ONLY
    scoring: str | None = None
    """"choice", "generate" or "exact"; None takes the task's own way."""
    reward: str | None = None
    """"correct" (1 or 0), "prob" (choice only: the probability of the right option among the
    options), "logprob" (mean log-probability of the reference answer's tokens, at most 0; for
    choice the right option's) or another of the task's; None takes correct for choice, the task's
    grader for generate. By "confidence", questions that have words are answered by the likeliest
    of these, and graded with their probability."""
    max_new_tokens: int | None = None
    """Cap on an answer; None takes the task's."""
    batches: Batches = field(default_factory=Batches)
    temperature: float | None = None
    """At which the answers to rows with `draws` are sampled, > 0; None has them be greedy."""

    def __post_init__(self) -> None:
        self.scoring = self.task.choose_scoring(self.scoring, self.reward)
        if self.max_new_tokens is None:
            self.max_new_tokens = self.task.max_new_tokens
        # Now, not when first needed: the same whatever the weights are by then.
        self._span = tree_span(self.model) if self.scoring == "choice" else 0

    def by(self, model: Any) -> "Rollout":
        """Return the same rollout by a model that stands for this one, such as a `BatchedModel`."""
        other = copy(self)  # not made anew: what was found out about the model stays
        other.model = model
        return other

    def encode(self, rows: Sequence[Row]) -> tuple[EncodedRow, ...]:
        """Tokenize rows.

        Raises:
            TaskError: if a row does not fit the model's context, or has no reference answer where
                something looks at it.
        """
        limit = getattr(self.model.config, "max_position_embeddings", None) or math.inf
        forced = self.reward == "logprob" or self.scoring == "exact"
        encoded, how = [], {"with_references": forced, "by_words": self.reward == "confidence"}
        for row in rows:
            one = encode_row(self.model, self.tokenizer, row, self.scoring, **how)
            need = one.longest(self.max_new_tokens)
            if need > limit:
                raise TaskError(
                    f"row {row.id} of {self.task.name} needs {need:,} tokens with its answer, "
                    f"expected at most {limit:,}, the model's context",
                    hint="leave the row out, lower max_new_tokens of the task, or take a model "
                    "with a longer context",
                )
            encoded.append(one)
        return tuple(encoded)

    def sequences(self, one: EncodedRow) -> int:
        """Return how many sequences of a batch a row is in a rollout."""
        if self._rewards_are_of_answers and self.scoring != "exact":
            trees = trees_of(one.options, self._span) if one.options else ()
            return len(one.prompts) + len(trees)
        return len(one.references)

    def tokens(self, one: EncodedRow) -> int:
        """Return the tokens of a row's sequences, each with the longest answer it may have."""
        given = sum(len(it.tokens) + 1 for it in (*one.options, *one.references))
        return given + sum(len(prompt) + self.max_new_tokens for prompt in one.prompts)

    def roll_out(self, encoded: Sequence[EncodedRow]) -> list[RowResult]:
        """Return the rewards that the model as it is now gets, in row order.

        With reward "logprob" no answer is made or chosen, so that nothing is said of its being
        right, but by scoring "exact".
        """
        with one_grader() as grader:
            return self.begin(encoded, grader)()

    def begin(
        self, encoded: Sequence[EncodedRow], grader: Executor
    ) -> Callable[[], list[RowResult]]:
        """Do the model's part of `roll_out`; what comes back waits for the grades and returns it.

        Answers are graded on `grader` (see `one_grader`) from their batch on: while the next one
        decodes, and behind the last while the weights already become those of another member.
        """
        if self._rewards_are_of_answers:
            return self._answered(encoded, grader)
        rewards = self._reference_logprobs(encoded)
        results = [RowResult(reward=reward, correct=None) for reward in rewards]
        return lambda: results

    def evaluate(self, encoded: Sequence[EncodedRow]) -> list[RowResult]:
        """Return the rewards and whether the answers are right, in row order."""
        with one_grader() as grader:
            results = self._answered(encoded, grader)()
        if self._rewards_are_of_answers:
            return results
        rewards = self._reference_logprobs(encoded)
        return [
            replace(result, reward=reward) for result, reward in zip(results, rewards, strict=True)
        ]

    def fill(self, encoded: Sequence[EncodedRow], batches: Batches) -> None:
        """Work on the longest rows in `batches`, with answers as long as they may be.

        So that it takes the memory that a batch of this size can take at most. A batch is full also
        where there are fewer rows.
        """
        rows = sorted(encoded, key=lambda one: one.longest(self.max_new_tokens), reverse=True)
        rows = list(islice(cycle(rows), batches.size))
        filling = replace(self, batches=batches)
        if self.scoring == "choice":
            filling.option_logprobs(rows)
        if self.scoring == "generate":
            stops = stop_tokens(self.model, self.tokenizer)
            prompts = [prompt for one in rows for prompt in one.prompts]
            greedy_answers(
                self.model,
                self.tokenizer,
                prompts,
                self.max_new_tokens,
                batches,
                bend=lambda _, count, logits: _without(logits, stops),
                skipping=True,
            )
        if any(one.references for one in rows):
            filling._forced([one.references for one in rows])

    def option_logprobs(self, encoded: Sequence[EncodedRow]) -> list[list[float]]:
        """Return log p(continuation | context) of each option of each row."""
        rows = [one.options for one in encoded]
        return option_logprobs(self.model, rows, self.batches, self._span)

    @property
    def _rewards_are_of_answers(self) -> bool:
        return self.reward != "logprob" or self.scoring == "exact"

    def _answered(
        self, encoded: Sequence[EncodedRow], grader: Executor
    ) -> Callable[[], list[RowResult]]:
        if self.scoring == "choice":
            pairs = zip(encoded, self.option_logprobs(encoded), strict=True)
            results = [_choice_result(one.row, logprobs, self.reward) for one, logprobs in pairs]
            return lambda: results
        if self.scoring == "exact":
            forced = self._forced([one.references for one in encoded])
            pairs = zip(encoded, forced, strict=True)
            results = [self._exact_result(one.references, forced) for one, forced in pairs]
            return lambda: results
        grading = Grading(encoded, self._graded, grader, self._chosen(encoded))
        asked = [(prompt, one.member) for one in encoded for prompt in one.prompts]
        prompts, members = zip(*asked, strict=True)
        sampling = self.temperature is not None
        draws = [draw for one in encoded for draw in one.draws]
        greedy_answers(
            self.model,
            self.tokenizer,
            prompts,
            self.max_new_tokens,
            self.batches,
            bend=drawn(draws, self.temperature) if sampling else None,
            on_batch=grading.take,
            members=None if members[0] is None else members,
        )
        return grading.results

    def _chosen(self, encoded: Sequence[EncodedRow]) -> list[tuple[Answer, ...]] | None:
        """Return the answers to questions that are answered by words; None where none is."""
        if not any(one.options for one in encoded):
            return None
        chosen = []
        for one, found in zip(encoded, self.option_logprobs(encoded), strict=True):
            logprobs, answers = iter(found), []
            for words in (one.words for one in one.row.questions[len(one.prompts) :]):
                shares = _shares([next(logprobs) for _ in words])
                likeliest, finite = shares.index(max(shares)), not math.isnan(shares[0])
                answers.append(Answer(words[likeliest], finite, (), False, shares[0]))
            chosen.append(tuple(answers))
        return chosen

    def _reference_logprobs(self, encoded: Sequence[EncodedRow]) -> list[float]:
        references = [one.references for one in encoded]
        pairs = zip(references, self._forced(references), strict=True)
        return [_mean_logprob(*pair) for pair in pairs]

    def _forced(self, rows: Sequence[Sequence[Continuation]]) -> list[list[TeacherForced]]:
        """Return what the model makes of the continuations of each row."""
        flat = [continuation for row in rows for continuation in row]
        forced = iter(teacher_forced(self.model, flat, self.batches))
        return [[next(forced) for _ in row] for row in rows]

    def _exact_result(
        self, references: Sequence[Continuation], forced: Sequence[TeacherForced]
    ) -> RowResult:
        correct = [one.argmax for one in forced] == [one.targets for one in references]
        reward = _mean_logprob(references, forced)
        if not math.isnan(reward) and self.reward != "logprob":
            reward = float(correct)
        return RowResult(
            reward=reward,
            correct=correct and not math.isnan(reward),
            answers=tuple(
                self.tokenizer.decode(one.argmax, skip_special_tokens=True) for one in forced
            ),
        )

    def _graded(self, row: Row, answers: Sequence[Answer]) -> RowResult:
        texts = tuple(
            question.opening + answer.text
            for question, answer in zip(row.questions, answers, strict=True)
        )
        cut = any(answer.cut for answer in answers)
        if not all(answer.finite for answer in answers):
            return RowResult(reward=math.nan, correct=False, answers=texts, cut=cut)
        shares = [answer.share for answer in answers if answer.share is not None]
        grade = self.task.grade(row, texts, *shares)
        return RowResult(
            reward=grade.reward_of(self.reward),
            correct=grade.correct,
            answers=texts,
            failure=grade.failure,
            cut=cut,
            knowing=grade.knowing,
        )


def _without(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    logits[:, list(tokens)] = -math.inf
    return logits


def _mean_logprob(references: Sequence[Continuation], forced: Sequence[TeacherForced]) -> float:
    """The log-probability of all references of a row, over the number of their tokens."""
    tokens = sum(len(reference.targets) for reference in references)
    return sum(one.logprob for one in forced) / tokens


def _shares(logprobs: list[float]) -> list[float]:
    """Return the probability of each among them."""
    parts = [math.exp(logprob - max(logprobs)) for logprob in logprobs]
    whole = math.fsum(parts)
    return [part / whole for part in parts]


def _choice_result(row: Row, logprobs: list[float], reward: str | None) -> RowResult:
    if any(math.isnan(logprob) for logprob in logprobs):
        return RowResult(reward=math.nan, correct=False, correct_unnormalized=False)
    per_length = [
        logprob / option.divisor for logprob, option in zip(logprobs, row.options, strict=True)
    ]
    # Ties go to the first option, as in the harness.
    chosen = per_length.index(max(per_length))
    correct = chosen == row.gold
    return RowResult(
        reward=_shares(logprobs)[row.gold] if reward == "prob" else float(correct),
        correct=correct,
        answers=(row.options[chosen].text,),
        correct_unnormalized=logprobs.index(max(logprobs)) == row.gold,
    )
