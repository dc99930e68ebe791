"""The population of a step: members and rows in, rewards out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from esft.engine.members import Member
from esft.engine.perturb import perturbed
from esft.rollout.encode import EncodedRow
from esft.rollout.results import mean_reward
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
    """

    def __init__(self, session: Session, failures: Failures) -> None:
        self._session = session
        self._failures = failures

    def roll_out(
        self,
        step: int,
        members: Sequence[Member],
        rows: Sequence[EncodedRow],
        on_members: Callable[[int], None],
    ) -> list[MemberResult]:
        """Return what each member made of `rows`, in the members' order.

        The weights are exactly as they were after each. `on_members` is called with the number of
        members done, each time some are.
        """
        base, rollout, results = self._session.base, self._session.rollout, []
        sigma = self._session.recipe.search.sigma
        for member in members:
            with perturbed(base.weights, member, sigma, base.drift):
                row_results = rollout.roll_out(rows)
            judged = [result.correct for result in row_results if result.correct is not None]
            results.append(
                MemberResult(
                    reward=mean_reward(row_results),
                    judged=len(judged),
                    right=sum(judged),
                    failures=self._failures.add(f"step {step}", rows, row_results),
                )
            )
            on_members(len(results))
        return results
