"""Simulated evaluations of which the right verdict is known.

A row is right where its ability + shift + disturbance is above 0. The ability is drawn once a row
from N(0, 1), so most rows are far from the threshold and keep their answer. The shift gives an
evaluation the accuracy it should have over endless rows. The disturbance is what another model
does to single rows without being better or worse: none for the base, N(0, disturbance^2) for the
later ones, correlated by 0.5 from one evaluation to the next. Rows are independent. With half of
the rows right, disturbances of 0.1, 0.3 and 0.6 change 3, 9 and 17 % of the answers.
"""

import math
from collections import Counter
from statistics import NormalDist

import numpy as np

from esft.stats.verdict import diagnose

TRUTHS = ("unchanged", "improved", "drifting", "recovered", "lost")

KEPT = 0.5
"""Correlation of a row's disturbances in one evaluation and the next."""

PILOT = 200
"""Rows evaluated first; where the verdict asks for more, as many as it asks for, once."""

MOST_ROWS = 20_000


def answers(accuracies, disturbance, rows, seed):
    """Return 0 or 1, shape (evaluations, rows), the base first; more rows add to the same ones."""
    drawn = np.random.default_rng(seed).standard_normal((rows, 1 + len(accuracies)))
    ability, news = drawn[:, 0], disturbance * drawn[:, 1:].T
    disturbed, evaluations = np.zeros(rows), []
    for number, accuracy in enumerate(accuracies):
        if number == 1:
            disturbed = news[number]
        elif number > 1:
            disturbed = KEPT * disturbed + math.sqrt(1 - KEPT**2) * news[number]
        scale = math.hypot(1, disturbance) if number else 1.0
        evaluations.append(ability + NormalDist().inv_cdf(accuracy) * scale + disturbed > 0)
    return np.array(evaluations, dtype=float)


def judged(accuracies, disturbance, rows, seed):
    """Return the verdict on simulated rows of a base and later evaluations."""
    base, *later = answers(accuracies, disturbance, rows, seed)
    return diagnose(base, dict(enumerate(later)))


def some_case(truth, draw, drop=0.10):
    """Return accuracies of the base and of later evaluations that make `truth`, and a disturbance.

    `drop` is how far those recovered and lost fall, and those drifting at first.
    """
    base = draw.uniform(0.5, 0.9)
    before = [0.0] * draw.randrange(3)
    after = [0.0] * draw.randrange(1, 4)
    if truth == "unchanged":
        changes = before + after
    elif truth == "improved":
        changes = [*before, 0.03, min(draw.uniform(0.06, 0.12), 0.98 - base)]
    elif truth == "drifting":
        steps = [draw.uniform(0.03, 0.06) for _ in range(draw.randrange(3, 5))]
        changes = before + [-drop - sum(steps[:number]) for number in range(len(steps) + 1)]
    elif truth == "recovered":
        changes = before + [-drop] * draw.randrange(1, 3) + [-drop / 2] + [0.0, 0.0] + after
    else:
        changes = before + [-drop] * draw.randrange(4, 7)
    return (base, *(base + change for change in changes)), draw.uniform(0.1, 0.6)


def wrong_and_open(truth, kinds):
    """Return how many verdicts are wrong, and how many leave the question open.

    To be down is no error where it is lost or drifting, which it leaves open.
    """
    left_open = kinds["not enough"] + kinds["down"] * (truth in ("drifting", "lost"))
    return kinds.total() - kinds[truth] - left_open, left_open


def counted(truth, number, draw, drop=0.10):
    """Return how often each verdict came up in `number` cases of `truth`, and the rows it took."""
    kinds, rows = Counter(), []
    for _ in range(number):
        case, seed = some_case(truth, draw, drop), draw.randrange(1 << 32)
        verdict, taken = judged(*case, PILOT, seed), PILOT
        if verdict.rows_needed is not None:
            taken = min(verdict.rows_needed, MOST_ROWS)
            verdict = judged(*case, taken, seed)
        kinds[verdict.kind] += 1
        rows.append(taken)
    return kinds, sorted(rows)
