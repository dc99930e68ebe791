"""The estimator against exact KL divergences of made-up distributions."""

import math

import pytest
import torch

from esft.rollout.kl import TokenDistributions, estimate, kl_by_position

SIZE = 12


def some_distribution(seed, spread=2.0):
    draw = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(SIZE, generator=draw)).log_softmax(-1)


def distributions_of(every, tokens, top):
    """What a model says of `tokens`, at each position alike, the tokens `top` one by one."""
    others = every.clone()
    others[top] = -math.inf
    logprobs = torch.cat([every[top], others.logsumexp(-1).view(1)])
    return TokenDistributions(
        continuation=None,
        own=every[tokens],
        top=top.expand(len(tokens), -1),
        logprobs=logprobs.expand(len(tokens), -1),
        among_others=torch.tensor([token not in top for token in tokens.tolist()]),
    )


def both(p, q, tokens, top):
    likeliest = p.topk(top).indices
    return distributions_of(p, tokens, likeliest), distributions_of(q, tokens, likeliest)


def exact(p, q):
    return float((p.double().exp() * (p.double() - q.double())).sum())


@pytest.mark.parametrize("seed", [0, 42])
@pytest.mark.parametrize("top", [0, 1, 5, 12])
def test_the_mean_over_draws_is_the_divergence_whatever_is_summed_over(top, seed):
    p, q = some_distribution(seed), some_distribution(seed + 1000)
    every = torch.arange(SIZE)

    values = kl_by_position(*both(p, q, every, top))

    assert float((p.double().exp() * values).sum()) == pytest.approx(exact(p, q), rel=1e-5)
    assert float(values.min()) >= 0
    if top == SIZE:  # nothing is left to the draw
        assert values.tolist() == pytest.approx([exact(p, q)] * SIZE, rel=1e-5)


@pytest.mark.parametrize("top", [0, 5, 12])
def test_a_divergence_is_never_negative_and_exactly_0_from_itself(top):
    p = some_distribution(0, spread=20.0)
    near = (p + 1e-6 * some_distribution(1)).log_softmax(-1)
    every = torch.arange(SIZE)

    assert kl_by_position(*both(p, p, every, top)).tolist() == [0.0] * SIZE
    assert float(kl_by_position(*both(p, near, every, top)).min()) >= 0


def test_a_token_that_q_makes_certain_is_counted_without_overflow():
    p, q = torch.zeros(SIZE), torch.zeros(SIZE)
    p[0], q[0] = -80.0, 80.0
    p, q = p.log_softmax(-1), q.log_softmax(-1)

    for top in (0, SIZE):
        values = kl_by_position(*both(p, q, torch.arange(SIZE), top))
        assert bool(values.isfinite().all())


def test_a_token_impossible_under_p_adds_what_q_has_of_it():
    p, q = some_distribution(0), some_distribution(1)
    p[3] = -math.inf
    p = p.log_softmax(-1)
    possible = torch.tensor([i for i in range(SIZE) if i != 3])

    values = kl_by_position(*both(p, q, possible, SIZE))

    assert values.tolist() == pytest.approx([exact(p[possible], q[possible])] * 11, rel=1e-5)


def some_prompts(repeats=1, number=8):
    """`number` prompts with tokens of unequal numbers, each `repeats` times."""
    p, q = some_distribution(0), some_distribution(1)
    tokens = [torch.arange(1 + i).repeat(repeats) for i in range(number)]
    return [list(side) for side in zip(*(both(p, q, drawn, 2) for drawn in tokens), strict=True)]


def test_tokens_that_say_the_same_again_make_no_error_smaller():
    once, twice = estimate(*some_prompts()), estimate(*some_prompts(repeats=2))

    assert twice.kl == pytest.approx(once.kl, rel=1e-12)
    assert twice.se == pytest.approx(once.se, rel=1e-12)
    assert (once.tokens, twice.tokens, twice.prompts) == (36, 72, 8)


def test_four_times_as_many_prompts_halve_the_error():
    p, q = some_prompts(number=8)

    once, often = estimate(p, q), estimate(p * 4, q * 4)

    assert often.se == pytest.approx(once.se / 2 * math.sqrt(28 / 31))


def test_tokens_far_from_where_they_were_are_counted():
    p, q = some_distribution(0).clone(), some_distribution(0).clone()
    q[2] -= 10.5
    q[3] -= 9.5

    found = estimate(*([side] for side in both(p, q, torch.arange(4), 0)))

    assert found.far == 0.25


def test_what_has_no_finite_divergence_or_a_single_prompt_has_no_error():
    p, gone = some_distribution(0), some_distribution(1)
    gone[3] = -math.inf
    overflowed = torch.full((SIZE,), math.nan)

    impossible, nothing = (
        estimate(*([side] * 2 for side in both(p, q, torch.arange(SIZE), SIZE)))
        for q in (gone, overflowed)
    )

    assert impossible.kl == math.inf
    assert math.isnan(nothing.kl)
    for one in (impossible, nothing, estimate(*some_prompts(number=1))):
        assert math.isnan(one.se)
