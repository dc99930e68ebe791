"""The population of a step: members and rows in, rewards out."""

from collections.abc import Callable, Sequence

from esft.engine.members import Member
from esft.engine.perturb import perturbed
from esft.rollout.encode import EncodedRow
from esft.rollout.results import RowResult
from esft.tuning.session import Session


class Population:
    """Rolls out members one after the other, on the one model there is.

    The loop sees rewards and not how they came about: members in one batch, or on other
    processes, are another class with this `roll_out`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def roll_out(
        self,
        members: Sequence[Member],
        rows: Sequence[EncodedRow],
        on_members: Callable[[int], None],
    ) -> list[list[RowResult]]:
        """Return what each member made of `rows`, row by row, in the members' order.

        The weights are exactly as they were after each. `on_members` is called with the number of
        members done, each time some are.
        """
        base, sigma = self._session.base, self._session.recipe.search.sigma
        results: list[list[RowResult]] = []
        for member in members:
            with perturbed(base.weights, member, sigma, base.drift):
                results.append(self._session.rollout.roll_out(rows))
            on_members(len(results))
        return results
