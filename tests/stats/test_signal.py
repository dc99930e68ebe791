"""What rewards of members tell, against truths that are known."""

import math
from itertools import combinations
from statistics import NormalDist, fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.engine import noise
from esft.stats.signal import LEVEL, at_rows, combined, expected_best, reliability, signal_of

NORMAL = NormalDist()
SIGMAS = 2


def drawn(seed, *, mean=0.0, members=0.0, noise=1.0, size=(12, 24)):
    """Return rewards and base: a level a row, an effect of each member, and noise of each pair."""
    dice = np.random.default_rng(seed)
    base = dice.normal(0, 2, size[1])
    effects = mean + members * dice.normal(size=(size[0], 1))
    return base + effects + noise * dice.normal(size=size), base


@given(st.lists(st.integers(-5, 5), min_size=3, max_size=8), st.data())
def test_expected_best_is_the_mean_over_all_subsets(values, data):
    size = data.draw(st.integers(1, len(values)))

    every = fmean(max(subset) for subset in combinations(values, size))

    assert expected_best(values, size) == pytest.approx(every, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_reliability_is_the_mean_over_all_halvings(seed):
    rewards, _ = drawn(seed, members=0.5, size=(7, 6))

    def halved(rows):
        other = [row for row in range(6) if row not in rows]
        a, b = rewards[:, rows].sum(axis=1), rewards[:, other].sum(axis=1)
        return 4 * np.cov(a, b)[0, 1] / (a + b).var(ddof=1)

    every = fmean(halved(list(rows)) for rows in combinations(range(6), 3))

    assert reliability(rewards) == pytest.approx(every, abs=1e-12)


def test_reliability_at_more_rows_is_that_of_more_rows():
    assert at_rows(0.5, 1) == pytest.approx(0.5)
    assert at_rows(0.5, 3) == pytest.approx(0.75)  # 1 / (1 + 1/3): noise over three times the rows


def test_a_known_truth_is_found_within_errors():
    mean, members, noise, (count, rows) = -0.1, 0.3, 1.0, (12, 24)
    spread = math.hypot(members, noise / math.sqrt(rows))
    found = [
        signal_of(*drawn(seed, mean=mean, members=members, size=(count, rows)))
        for seed in range(40)
    ]

    def near(values, truth):
        error = np.std(values, ddof=1) / math.sqrt(len(values))
        assert abs(fmean(values) - truth) < 3 * error

    # The largest of N normal ones: integral of x d(Phi(x)^N).
    grid = np.linspace(-8, 8, 20_001)
    below = np.vectorize(NORMAL.cdf)(grid) ** count
    largest = float(((grid[1:] + grid[:-1]) / 2 * np.diff(below)).sum())
    near([one.change for one in found], mean)
    near([one.improving for one in found], NORMAL.cdf(mean / spread))
    near([one.spread**2 for one in found], spread**2)
    near([one.best[count] for one in found], mean + spread * largest)
    near([one.likely_best for one in found], mean + members**2 / spread * largest)
    # Of a ratio: at 12 members it is a little low, by 2 / (n - 1) of the share of noise.
    truth = 1 - (1 - members**2 / spread**2) * (count - 1) / (count - 3)
    near([one.reliability for one in found], truth)
    # The interval is of what so many members show: it holds the truth in 95 % of the cases.
    truth = NORMAL.cdf(mean / spread)
    holds = [one.improving_interval.low <= truth <= one.improving_interval.high for one in found]
    assert sum(holds) >= 36


@pytest.mark.parametrize("right_or_wrong", [False, True])
def test_pure_noise_is_no_signal_in_95_of_100_probes_and_a_signal_is_found(right_or_wrong):
    def works(seed, members):
        rewards, base = drawn(seed, members=members)
        if right_or_wrong:
            rewards, base = (rewards > 0).astype(float), (base > 0).astype(float)
        return signal_of(rewards, base, seed).kind(LEVEL / SIGMAS) == "works"

    noise = [
        any(works(SIGMAS * seed + sigma, 0.0) for sigma in range(SIGMAS)) for seed in range(100)
    ]
    signal = [works(seed, 1.2) for seed in range(10)]

    assert sum(noise) <= 5
    assert all(signal)


def test_the_mean_that_falls_further_than_members_differ_is_too_large():
    assert signal_of(*drawn(1, mean=-1.0, members=0.5)).kind() == "too large"
    assert signal_of(*drawn(1, mean=-0.2, members=0.5)).kind() == "works"


def test_a_member_that_overflows_makes_a_sigma_too_large_and_counts_as_not_improving():
    rewards, base = drawn(1, mean=5.0)
    rewards[3, 4] = math.nan

    one = signal_of(rewards, base)

    assert (one.kind(), one.overflowed, one.improving) == ("too large", 1, 11 / 12)
    assert one.change == pytest.approx((np.delete(rewards, 3, 0) - base).mean())
    nothing = signal_of(np.full((4, 8), math.nan), base[:8])
    assert (nothing.kind(), nothing.overflowed, nothing.best) == ("too large", 4, {})


def test_members_that_all_score_alike_are_mute():
    _, base = drawn(1)
    one = signal_of(np.tile(base, (5, 1)), base)

    assert (one.kind(), one.telling, one.nearly, one.p_value) == ("mute", 0.0, None, 1.0)
    assert one.reliability == 0.0


def test_members_on_a_bowl_are_told_as_brute_force_tells_them():
    """Rewards are a quadratic of the members' own noise in a random subspace, seen through rows."""
    size, bowl, sigma, noise_of_a_row, rows, members = 400, 12, 0.1, 1.0, 32, 30
    dice = np.random.default_rng(0)
    axes = np.linalg.qr(dice.normal(size=(size, bowl)))[0]  # (weights, dimensions that matter)
    curvatures, place = np.linspace(0.5, 3.0, bowl), dice.normal(0, 0.6, bowl)

    def changes(along):  # of members whose noise lies so along the axes
        return -0.5 * (curvatures * ((place + sigma * along) ** 2 - place**2)).sum(axis=-1)

    many = changes(dice.normal(size=(200_000, bowl)))
    spread = sigma * math.sqrt(
        (curvatures**2 * (place**2 + sigma**2 / 2)).sum()  # of a quadratic of normal numbers
    )
    assert many.std() == pytest.approx(spread, rel=0.01)
    error = noise_of_a_row / math.sqrt(rows)  # of a member's mean
    seen = many + error * dice.normal(size=len(many))
    found = []
    for seed in range(60):
        own = np.stack([noise(1000 * seed + at, "w", 0, size).numpy() for at in range(members)])
        truth = changes(own @ axes)
        rewards = truth[:, None] + noise_of_a_row * dice.normal(size=(members, rows))
        found.append(signal_of(rewards, np.zeros(rows), seed))

    def near(values, truth):  # within 4 standard errors of their mean
        values = np.array(values)
        assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / math.sqrt(len(values))

    near([one.change for one in found], -0.5 * sigma**2 * curvatures.sum())
    near([one.improving for one in found], (seen > 0).mean())
    for count in (5, 20):
        best = seen[: len(seen) // count * count].reshape(-1, count).max(axis=1).mean()
        near([one.best[count] for one in found], best)
    # Of n rows alpha is 1 - 1 / F, whose mean is known: E[1 / F] = noise / all * (m - 1) / (m - 3).
    lost = error**2 / (spread**2 + error**2) * (members - 1) / (members - 3)
    near([one.reliability for one in found], 1 - lost)


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=3))
def test_p_values_together_are_fishers(chances):
    draws = -2 * sum(map(math.log, chances))
    steps = np.linspace(0, draws, 20_001)  # chi-squared of 2 k degrees of freedom, integrated
    k = len(chances)
    density = steps ** (k - 1) * np.exp(-steps / 2) / (2**k * math.factorial(k - 1))

    assert combined(chances) == pytest.approx(1 - np.trapezoid(density, steps), abs=1e-6)
