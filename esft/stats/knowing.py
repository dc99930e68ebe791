"""Whether a model that says that it knows does know: type-2 d' and what belongs to it, with errors.

Of rows with c, right or wrong, and a claim, yes, no or unclear (which is neither), and where it is
known p, the probability of yes:

- accuracy: share right; its two variants by how a right answer was found;
- yes, unclear: share of these claims; alignment: share of right and yes, or wrong and no;
- hit_rate: H = P(yes | right); false_alarm_rate: F = P(yes | wrong);
- d_prime: z(H) - z(F), z the inverse of the normal distribution, of rates clipped to 1e-4 and
  1 - 1e-4;
- yes_failure: share wrong of those claimed; no_failure: share right of those denied;
- auroc: chance that the right one of a right and a wrong row has the higher p;
  calibration_error: mean over rows of |mean p - share right| of their bin, of ten alike (ECE).

A share of no rows is None. Errors and intervals are those of `DRAWS` bootstrap samples of the rows.
So that ten of ten do not prove always, each is drawn from the rows and four more, one a kind of
right or wrong and yes or no (compare Agresti and Caffo, 2000), none of which has p. Values are of
the rows alone, and lie within their intervals. Two models on the same rows share their samples.

Source: arXiv:2602.02605 for d', its clipping, alignment and the failures; H, F and z as in Fleming
and Lau, 2014, Front. Hum. Neurosci. 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from esft.stats.intervals import SAME
from esft.stats.kept import Kept, kept

Claim = Literal["yes", "no", "unclear"]
CLIP = 1e-4
DRAWS = 1000
BINS = 10
COLLAPSED = 0.02
"""Share of yes, or of what is not, below which it is said that a model does not tell rows apart."""
_PART = 10**7  # numbers of samples held at once


@dataclass(frozen=True, kw_only=True)
class Knowing:
    """What the answers to one row say of knowing."""

    claim: Claim
    substring: bool
    """Whether a right answer stands in the direct one, as part of a word or not."""
    words: bool
    """Whether it stands there as whole words."""
    p_yes: float | None = None
    """Probability of yes against no; None where the claim was generated."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measure, its standard error and 95 % interval; None where there were no rows for it."""

    value: float | None
    se: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class KnowingFigures:
    """All measures of one evaluation."""

    n: int
    measures: dict[str, Estimate]
    """By the names above, in their order; those of p where all rows have it."""
    chance: Estimate
    """d' with the claims shuffled among the rows: mean, deviation and middle 95 % of it."""
    notes: tuple[str, ...] = ()
    """What to know before reading them, such as a collapse."""


Rows = Sequence[tuple[bool, Knowing]]
"""Whether each row is right, by the match that counts, and what its answers say."""


def knowing_figures(rows: Rows, seed: int = 0) -> KnowingFigures:
    """Return the measures of at least one row; the same seed draws the same samples."""
    table = _table(rows)
    values = _measured(table, np.ones((1, len(rows))))
    (drawn,) = _drawn([_with_added(table)], seed)
    measures = {name: _estimate(values[name][0], drawn[name]) for name in values}
    return KnowingFigures(
        n=len(rows), measures=measures, chance=_chance(table, seed), notes=_notes(table)
    )


def knowing_changes(before: Rows, after: Rows, seed: int = 0) -> dict[str, Estimate]:
    """Return what changed in each measure that both have, paired by rows in one order.

    ValueError if their numbers differ.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} rows, expected the same ones")
    tables = _table(before), _table(after)
    was, now = (_measured(table, np.ones((1, len(before)))) for table in tables)
    # The added rows change in claim or answer: ten that stayed do not prove that all would.
    added = _with_added(tables[0]), _with_added(tables[1], [1, 3, 0, 2])
    was_drawn, now_drawn = _drawn(added, seed)
    return {
        name: _estimate(now[name][0] - was[name][0], now_drawn[name] - was_drawn[name])
        for name in was
        if name in now
    }


def knowing_kept(before: Rows, whole: Rows, part: Rows, seed: int = 0) -> Kept | None:
    """Return what share of the change in d' from `before` to `whole` that to `part` is, of the same
    rows in one order; None where the change to `whole` is within chance, or one of the three has no
    d'. Of simulated tables of 200 and 400 rows the interval held the true share in 94 to 99 %, but
    in 87 to 91 % where rates come to 0.95 or more."""
    tables = [_table(rows) for rows in (before, whole, part)]
    orders = ([0, 1, 2, 3], [1, 3, 0, 2], [2, 0, 3, 1])  # no two of them agree, as in changes
    added = [_with_added(*one) for one in zip(tables, orders, strict=True)]
    of_rows = [_measured(table, np.ones((1, len(before)))) for table in tables]
    of_draws = _drawn(added, seed)
    was, *now = [float(one["d_prime"][0]) for one in of_rows]
    was_drawn, *now_drawn = (one["d_prime"] for one in of_draws)
    errors = np.cov(np.stack(now_drawn) - was_drawn)
    if not np.isfinite([was, *now]).all() or not np.isfinite(errors).all():
        return None
    return kept(now[0] - was, now[1] - was, errors)


def _table(rows: Rows) -> dict[str, np.ndarray]:
    """Return a column (rows,) a fact: 0 or 1, and p where all rows have it."""
    if not rows:
        raise ValueError("no rows, expected at least one")
    columns = {
        "right": [right for right, _ in rows],
        **{name: [one.claim == name for _, one in rows] for name in ("yes", "no", "unclear")},
        "substring": [one.substring for _, one in rows],
        "words": [one.words for _, one in rows],
    }
    if all(one.p_yes is not None for _, one in rows):
        columns["p"] = [one.p_yes for _, one in rows]
    return {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}


def _with_added(
    table: dict[str, np.ndarray], order: Sequence[int] = (0, 1, 2, 3)
) -> dict[str, np.ndarray]:
    """Return a table with the four rows that are added to it, in this order."""
    right, yes = (np.array(of)[[*order]] for of in ([1.0, 1, 0, 0], [1.0, 0, 1, 0]))
    more = {"right": right, "substring": right, "words": right, "yes": yes, "no": 1 - yes}
    more |= {"unclear": np.zeros(4), "p": np.full(4, np.nan)}
    return {name: np.append(column, more[name]) for name, column in table.items()}


def _drawn(tables: Sequence[dict[str, np.ndarray]], seed: int) -> list[dict[str, np.ndarray]]:
    """Return each measure, (DRAWS,), of each table, by the same bootstrap samples of its rows."""
    columns = [column for table in tables for column in table.values()]
    # Rows that are alike are drawn together: how many of them is multinomial.
    kinds, alike = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
    cells, count = iter(kinds.T), int(alike.sum())
    tables = [{name: next(cells) for name in table} for table in tables]
    generator, part = np.random.default_rng(seed), max(1, _PART // len(alike))
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in tables]
    for begin in range(0, DRAWS, part):
        samples = min(part, DRAWS - begin)
        weights = generator.multinomial(count, alike / count, samples).astype(np.float64)
        for table, made in zip(tables, parts, strict=True):
            made.append(_measured(table, weights))
    return [
        {name: np.concatenate([one[name] for one in made]) for name in made[0]} for made in parts
    ]


def _measured(table: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return each measure, (samples,), of rows with these weights (samples, rows)."""

    def share(part: np.ndarray, whole: np.ndarray | None = None) -> np.ndarray:
        counted = weights.sum(axis=1) if whole is None else weights @ whole
        return _ratio(weights @ (part if whole is None else part * whole), counted)

    right, yes, no = (table[name] for name in ("right", "yes", "no"))
    hits, alarms = share(yes, right), share(yes, 1 - right)
    measures = {
        "accuracy": share(right),
        "accuracy_substring": share(table["substring"]),
        "accuracy_words": share(table["words"]),
        "yes": share(yes),
        "unclear": share(table["unclear"]),
        "hit_rate": hits,
        "false_alarm_rate": alarms,
        "d_prime": d_prime(hits, alarms),
        "alignment": share(right * yes + (1 - right) * no),
        "yes_failure": share(1 - right, yes),
        "no_failure": share(right, no),
    }
    if "p" in table:
        has = ~np.isnan(table["p"])  # rows that were added have none
        of_p = table["p"][has], right[has], weights[:, has]
        measures |= {"auroc": _auroc(*of_p), "calibration_error": _calibration_error(*of_p)}
    return measures


def d_prime(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """Return z(hits) - z(alarms) of rates (*s), clipped; NaN where one of them is."""
    return _z(hits) - _z(alarms)


def _z(rates: np.ndarray) -> np.ndarray:
    known, inverse = np.unique(np.clip(rates, CLIP, 1 - CLIP), return_inverse=True)
    # Few of many rates differ: numpy has no inverse of the normal distribution.
    inv_cdf = NormalDist().inv_cdf
    scores = [rate if np.isnan(rate) else inv_cdf(float(rate)) for rate in known]
    return np.array(scores)[inverse].reshape(rates.shape)


def _auroc(p: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (samples,): ties count half."""
    order = np.argsort(p, kind="stable")
    starts = np.unique(p[order], return_index=True)[1]  # of rows of one p
    of_right = np.add.reduceat(weights[:, order] * right[order], starts, axis=1)
    of_wrong = np.add.reduceat(weights[:, order] * (1 - right[order]), starts, axis=1)
    below = np.cumsum(of_wrong, axis=1) - of_wrong / 2
    return _ratio((of_right * below).sum(axis=1), of_right.sum(axis=1) * of_wrong.sum(axis=1))


def _calibration_error(p: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    within = np.eye(BINS)[bins] * (p - right)[:, None]  # (rows, bins)
    return _ratio(np.abs(weights @ within).sum(axis=1), weights.sum(axis=1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _estimate(value: float, drawn: np.ndarray) -> Estimate:
    """Return a measure with errors by its samples; those that have no rows for it do not count."""
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(value) or len(drawn) < 2:
        return Estimate(value=None if np.isnan(value) else float(value))
    low, high = np.quantile(drawn, [(1 - SAME) / 2, (1 + SAME) / 2])
    return Estimate(
        value=float(value),
        se=float(drawn.std(ddof=1)),
        low=min(float(low), float(value)),
        high=max(float(high), float(value)),
    )


def _chance(table: dict[str, np.ndarray], seed: int) -> Estimate:
    """Return d' of shuffled claims: how many of them fall on right rows is hypergeometric."""
    count, right, yes = len(table["right"]), int(table["right"].sum()), int(table["yes"].sum())
    if right in (0, count):
        return Estimate(value=None)
    drawn = np.random.default_rng(seed).hypergeometric(yes, count - yes, right, DRAWS)
    shuffled = d_prime(drawn / right, (yes - drawn) / (count - right))
    return _estimate(float(shuffled.mean()), shuffled)


def _notes(table: dict[str, np.ndarray]) -> tuple[str, ...]:
    yes, right, notes = float(table["yes"].mean()), table["right"], []
    if not COLLAPSED <= yes <= 1 - COLLAPSED:
        word = "Yes" if yes > 0.5 else "No"
        if word == "No" and table["unclear"].mean() > 0.5:
            word = "neither Yes nor No"
        notes.append(
            f"it says {word} to nearly everything ({yes:.1%} Yes): it does not tell rows apart, "
            "and its d' is of few answers"
        )
    for name, has in (("right", right), ("wrong", 1 - right)):
        if not has.any():
            notes.append(f"no row is {name}, so that there is no d'")
    return tuple(notes)
