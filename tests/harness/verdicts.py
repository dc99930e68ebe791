"""How often the verdict on a prior task is right: simulated evaluations with known truth.

    python tests/harness/verdicts.py [NUMBER]

NUMBER (1,000) cases of each truth, judged on 200 rows or, where the verdict asks for more, once
again on as many as it asks for. Exits 1 if more than 5 % of a truth are judged wrong or more than
20 % left open: as "not enough", or as "down" where the truth is lost or drifting. Drops of 5 points
are shown too: they have no limits to keep.
"""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simulated_evaluations import TRUTHS, counted, wrong_and_open

KINDS = (*TRUTHS, "down", "not enough")
WRONG, ABSTAINING = 0.05, 0.20


def main(number):
    """Return how many truths are judged worse than the limits allow."""
    print(
        f"{'truth':24}" + "".join(f"{kind:>11}" for kind in KINDS) + "   wrong   rows (1/2, 9/10)"
    )
    missed = sum(show(truth, number, 0.10) for truth in TRUTHS)
    for truth in TRUTHS[2:]:
        show(truth, number, 0.05)
    return missed


def show(truth, number, drop):
    """Print one truth's line; return whether it misses a limit."""
    kinds, rows = counted(truth, number, random.Random(f"{truth} {drop}"), drop)
    wrong, abstaining = wrong_and_open(truth, kinds)
    print(
        f"{truth + (f', drop {100 * drop:.0f} points' if truth in TRUTHS[2:] else ''):24}"
        + "".join(f"{kinds[kind]:11}" for kind in KINDS)
        + f"{100 * wrong / number:6.1f} %   {rows[number // 2]}, {rows[9 * number // 10]}",
        flush=True,
    )
    return wrong > WRONG * number or abstaining > ABSTAINING * number


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000) > 0)
