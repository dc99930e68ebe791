"""The population of a step: members and rows in, rewards out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from esft.engine.members import Member
from esft.engine.perturb import perturbed
from esft.rollout.encode import EncodedRows
from esft.rollout.results import RowResult, mean_reward
from esft.tuning.session import Session
from esft.tuning.watcher import Failures


@dataclass(frozen=True, kw_only=True)
class MemberResult:
    """What a member made of the rows of a step: all that the loop learns of it."""

    reward: float
    """Mean over the rows; NaN where the member overflowed."""
    judged: int
    """Rows of which it was looked at whether they are right; 0 where no answers were made."""
    right: int
    failures: int
    """Answers that the grader could not grade."""


class Population:
    """Rolls out members one after the other, on the one model there is.

    The loop sees rewards and not how they came about: members in one batch, or on other
    processes, are another class with this `roll_out`.

    Args:
        session: whose weights are perturbed, and exactly as they were after each member.
        failures: counts the answers without a reward.
    """

    def __init__(self, session: Session, failures: Failures) -> None:
        self._session = session
        self._failures = failures

    def roll_out(
        self,
        step: int,
        members: Sequence[Member],
        rows: EncodedRows,
        on_members: Callable[[int], None] = lambda done: None,
    ) -> list[MemberResult]:
        """Return what each member made of `rows`, in the members' order.

        Args:
            step: of the run, from 1.
            members: of that step.
            rows: the same ones for every member.
            on_members: called with the number of members done, each time some are.
        """
        session, results = self._session, []
        sigma = session.recipe.search.sigma
        for member in members:
            with perturbed(session.weights, member, sigma, session.drift):
                row_results = session.rollout.roll_out(rows)
            self._failures.add(f"step {step}", rows, row_results)
            results.append(_member_result(row_results))
            on_members(len(results))
        return results


def _member_result(results: list[RowResult]) -> MemberResult:
    judged = [result.correct for result in results if result.correct is not None]
    return MemberResult(
        reward=mean_reward(results),
        judged=len(judged),
        right=sum(judged),
        failures=sum(result.failure is not None for result in results),
    )
