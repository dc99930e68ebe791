"""When a run is past its peak, and when noise could have made it."""

import math
import random

import pytest

from esft.tuning.peak import find_peak

ROWS = 200


def evaluated(*means, noise=0.3, seed=0):
    """Return rewards of rows by step, 10 steps apart, whose true means these are."""
    draw = random.Random(seed)
    return {
        10 * number: [draw.gauss(mean, noise) for _ in range(ROWS)]
        for number, mean in enumerate(means)
    }


def best_of(rewards):
    return max(rewards, key=lambda step: sum(rewards[step]))


def test_a_fall_is_found_with_an_interval_that_holds_it():
    rewards = evaluated(0.0, 0.3, 0.5, 0.3, 0.2, 0.1)

    peak = find_peak(rewards, best_of(rewards), 3)

    assert (peak.step, peak.since, peak.rows) == (20, (30, 40, 50), ROWS)
    assert peak.reward == pytest.approx(0.5, abs=0.1)
    assert peak.low < -0.3 < peak.high < 0
    assert peak.level == pytest.approx(1 - 0.05 / (25 * 6))  # the fifth evaluation after the base
    text = f"step 20, reward {peak.reward:.4f} +- {peak.reward_se:.4f} on 200 holdout rows; "
    assert str(peak).startswith(f"{text}{peak.change:+.4f} in steps 30, 40, 50 (")


def test_it_waits_for_its_patience_and_for_a_fall_that_noise_would_not_make():
    rewards = evaluated(0.0, 0.3, 0.5, 0.3, 0.2, 0.1)
    assert find_peak(rewards, 20, 4) is None
    level = evaluated(0.0, 0.3, 0.5, 0.49, 0.48, 0.47)
    assert find_peak(level, best_of(level), 3) is None


def test_a_row_that_is_not_finite_counts_as_the_lowest():
    rewards = evaluated(0.5, 0.1, 0.1, noise=0.01)
    rewards[20] = [math.nan] * ROWS

    peak = find_peak(rewards, 0, 2)

    assert str(peak).startswith("the base model, reward 0.4996 +- 0.0007 on 200 holdout rows")
    lowest = min(rewards[10])
    assert peak.change == pytest.approx((0.1 + lowest) / 2 - 0.5, abs=0.01)


def test_of_runs_without_a_peak_at_most_one_in_twenty_is_ended():
    def ended(seed):
        rewards = evaluated(*[0.5] * 13, seed=seed)
        steps = [*rewards]
        for count in range(2, len(steps) + 1):
            seen = {step: rewards[step] for step in steps[:count]}
            if find_peak(seen, best_of(seen), 1) is not None:
                return True
        return False

    assert sum(map(ended, range(60))) <= 3
