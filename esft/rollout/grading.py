"""Grading of answers on a thread of its own, while the model goes on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager

from esft.rollout.encode import EncodedRow
from esft.rollout.generate import Answer
from esft.rollout.results import RowResult
from esft.tasks.task import Row

Grade = Callable[[Row, Sequence[Answer]], RowResult]
"""Makes a result of the answers to the questions of a row."""


@contextmanager
def one_grader() -> Iterator[Executor]:
    """Give a thread that grades one row at a time, in the order they come.

    There is one, since what grades may be a process that one caller at a time can talk to. With the
    block it ends: what an exception (also that of Ctrl-C) left waiting is dropped, and the row in
    hand is waited for; graders have time limits.
    """
    grader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grader")
    try:
        yield grader
    finally:
        grader.shutdown(wait=True, cancel_futures=True)


class Grading:
    """Grades rows as soon as the answers to all their questions are there.

    Args:
        encoded: the rows; their prompts, one row's after the other's, are numbered from 0.
        grade: called on the grader's thread.
        grader: see `one_grader`.
        chosen: what is answered in each row to questions behind the prompts; None has none.
    """

    def __init__(
        self,
        encoded: Sequence[EncodedRow],
        grade: Grade,
        grader: Executor,
        chosen: Sequence[Sequence[Answer]] | None = None,
    ) -> None:
        self._chosen = [()] * len(encoded) if chosen is None else chosen
        self._encoded, self._grade, self._grader = encoded, grade, grader
        self._asked = [
            (row, question)
            for row, one in enumerate(encoded)
            for question in range(len(one.prompts))
        ]
        self._answers: list[dict[int, Answer]] = [{} for _ in encoded]
        self._results: list[Future[RowResult] | None] = [None] * len(encoded)

    def take(self, prompts: Sequence[int], answers: Sequence[Answer]) -> None:
        """Take the answers to prompts of these numbers."""
        for number, answer in zip(prompts, answers, strict=True):
            row, question = self._asked[number]
            given, one = self._answers[row], self._encoded[row]
            given[question] = answer
            if len(given) == len(one.prompts):
                in_order = [given[question] for question in range(len(one.prompts))]
                in_order += self._chosen[row]
                self._results[row] = self._grader.submit(self._grade, one.row, in_order)

    def results(self) -> list[RowResult]:
        """Wait for the results of all rows, in their order; raises what grading one raised."""
        return [result.result() for result in self._results]
