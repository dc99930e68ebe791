"""Rollouts: from rows and a model to rewards."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

from esft.errors import TaskError
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRows, encode_rows
from esft.rollout.generate import Answer, greedy_answers
from esft.rollout.logprobs import Continuation, TeacherForced, logprobs, teacher_forced
from esft.rollout.results import RowResult
from esft.tasks.task import Row, Task


class Rollout:
    """Scores rows of one task on one model, whose weights may change between calls.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        task: what is scored.
        scoring: "choice" or "generate"; None takes the task's own way.
        reward: "correct" (1 or 0), "prob" (choice only: the probability of the right option
            among the options) or "logprob" (mean log-probability of the reference answer's
            tokens, at most 0; for choice the right option's); None takes correct for choice, the
            task's grader for generate.
        max_new_tokens: cap on an answer; None takes the task's.
        batches: how many sequences at a time.

    Raises:
        TaskError: if the task cannot be scored so.
    """

    def __init__(
        self,
        model,
        tokenizer,
        task: Task,
        *,
        scoring: str | None = None,
        reward: str | None = None,
        max_new_tokens: int | None = None,
        batches: Batches | None = None,
    ) -> None:
        self.scoring = task.choose_scoring(scoring, reward)
        self.batches = Batches() if batches is None else batches
        self._model = model
        self._tokenizer = tokenizer
        self.task = task
        self.reward = reward
        self.max_new_tokens = task.max_new_tokens if max_new_tokens is None else max_new_tokens

    def with_batches(self, batches: Batches) -> "Rollout":
        """Return the same with another number of sequences at a time."""
        other = copy.copy(self)
        other.batches = batches
        return other

    def on(self, model) -> "Rollout":
        """Return the same for another model with the same tokenizer."""
        other = copy.copy(self)
        other._model = model
        return other

    def encode(self, rows: tuple[Row, ...]) -> EncodedRows:
        """Tokenize rows.

        Raises:
            TaskError: if a row does not fit the model's context, or has no reference answer where
                something looks at it.
        """
        encoded = encode_rows(
            self._model,
            self._tokenizer,
            rows,
            self.scoring,
            with_references=self.reward == "logprob" or self.scoring == "exact",
        )
        self._refuse_too_long(encoded)
        return encoded

    def roll_out(self, encoded: EncodedRows) -> list[RowResult]:
        """Return the rewards that the model as it is now gets, in row order.

        With reward "logprob" no answer is made or chosen, so that nothing is said of its being
        right, but by scoring "exact".
        """
        if self._rewards_are_of_answers:
            return self._answered(encoded)
        return [
            RowResult(reward=reward, correct=None) for reward in self._reference_logprobs(encoded)
        ]

    def evaluate(self, encoded: EncodedRows) -> list[RowResult]:
        """Return the rewards and whether the answers are right, in row order."""
        results = self._answered(encoded)
        if self._rewards_are_of_answers:
            return results
        rewards = self._reference_logprobs(encoded)
        return [
            replace(result, reward=reward) for result, reward in zip(results, rewards, strict=True)
        ]

    @property
    def _rewards_are_of_answers(self) -> bool:
        return self.reward != "logprob" or self.scoring == "exact"

    def _answered(self, encoded: EncodedRows) -> list[RowResult]:
        if self.scoring == "choice":
            return [
                _choice_result(row, option_logprobs, self.reward)
                for row, option_logprobs in zip(
                    encoded.rows, self.option_logprobs(encoded), strict=True
                )
            ]
        if self.scoring == "exact":
            return [self._exact_result(*pair) for pair in self._forced_references(encoded)]
        prompts = [prompt for prompts in encoded.prompts for prompt in prompts]
        answers = iter(
            greedy_answers(self._model, self._tokenizer, prompts, self.max_new_tokens, self.batches)
        )
        return [self._graded(row, [next(answers) for _ in row.questions]) for row in encoded.rows]

    def _reference_logprobs(self, encoded: EncodedRows) -> list[float]:
        return [_mean_logprob(*pair) for pair in self._forced_references(encoded)]

    def _forced_references(
        self, encoded: EncodedRows
    ) -> list[tuple[tuple[Continuation, ...], list[TeacherForced]]]:
        """Return the references of each row, with what the model makes of them."""
        flat = [reference for references in encoded.references for reference in references]
        forced = iter(teacher_forced(self._model, flat, self.batches))
        return [(row, [next(forced) for _ in row]) for row in encoded.references]

    def _exact_result(
        self, references: Sequence[Continuation], forced: Sequence[TeacherForced]
    ) -> RowResult:
        correct = [each.argmax for each in forced] == [each.targets for each in references]
        reward = _mean_logprob(references, forced)
        if not math.isnan(reward) and self.reward != "logprob":
            reward = float(correct)
        return RowResult(
            reward=reward,
            correct=correct and not math.isnan(reward),
            answers=tuple(
                self._tokenizer.decode(each.argmax, skip_special_tokens=True) for each in forced
            ),
        )

    def option_logprobs(self, encoded: EncodedRows) -> list[list[float]]:
        """Return log p(continuation | context) of each option of each row."""
        flat = [option for options in encoded.options for option in options]
        sums = iter(logprobs(self._model, flat, self.batches))
        return [[next(sums) for _ in row.options] for row in encoded.rows]

    def _graded(self, row: Row, answers: Sequence[Answer]) -> RowResult:
        texts = tuple(
            question.opening + answer.text
            for question, answer in zip(row.questions, answers, strict=True)
        )
        if not all(answer.finite for answer in answers):
            return RowResult(reward=math.nan, correct=False, answers=texts)
        grade = self.task.grade(row, texts)
        return RowResult(
            reward=float(grade.correct) if self.reward == "correct" else grade.reward,
            correct=grade.correct,
            answers=texts,
            failure=grade.failure,
        )

    def _refuse_too_long(self, encoded: EncodedRows) -> None:
        limit = getattr(self._model.config, "max_position_embeddings", None)
        for i, row in enumerate(encoded.rows):
            need = encoded.longest(i, self.max_new_tokens)
            if limit is not None and need > limit:
                raise TaskError(
                    f"row {row.id} of {self.task.name} needs {need:,} tokens with its answer, "
                    f"expected at most {limit:,}, the model's context",
                    hint="leave the row out, lower max_new_tokens of the task, or take a model "
                    "with a longer context",
                )


def _mean_logprob(references: Sequence[Continuation], forced: Sequence[TeacherForced]) -> float:
    """The log-probability of all references of a row, over the number of their tokens."""
    tokens = sum(len(reference.targets) for reference in references)
    return sum(each.logprob for each in forced) / tokens


def _choice_result(row: Row, logprobs: list[float], reward: str | None) -> RowResult:
    if any(math.isnan(logprob) for logprob in logprobs):
        return RowResult(reward=math.nan, correct=False, correct_unnormalized=False)
    # Ties go to the first option, as in the harness.
    plain = max(range(len(logprobs)), key=lambda i: logprobs[i])
    per_length = [
        logprob / option.divisor for logprob, option in zip(logprobs, row.options, strict=True)
    ]
    chosen = max(range(len(per_length)), key=lambda i: per_length[i])
    correct = chosen == row.gold
    return RowResult(
        reward=_probability(logprobs, row.gold) if reward == "prob" else float(correct),
        correct=correct,
        answers=(row.options[chosen].text,),
        correct_unnormalized=plain == row.gold,
    )


def _probability(logprobs: list[float], gold: int) -> float:
    top = max(logprobs)
    shares = [math.exp(logprob - top) for logprob in logprobs]
    return shares[gold] / math.fsum(shares)
