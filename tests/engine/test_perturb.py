"""A member leaves no trace, and both ways of undoing it give the same bits."""

from contextlib import nullcontext
from itertools import product

import pytest
import torch
from some_weights import (
    Tensors,
    awkward_numbers,
    bits_of,
    dtypes,
    kinds,
    some_drift,
    some_weights,
    tensor_bits,
    walk,
    with_both_noises,
)

from esft.engine import Drift, Member, Weights, noise, perturbed
from esft.engine.perturb import unmoved_share

INF, NAN = float("inf"), float("nan")
SIGMAS = (1e-3, 3e-3, 6e-3, 0.1, 1e4)  # short logs, long ones, and an overflow in float16
WAYS = {  # how the drift is kept, how members are undone
    "log without a drift": (None, "log"),
    "log with a drift": ("float16", "log"),
    "restore": ("float32", "restore"),
}
ENDINGS = (  # what is raised, and at which tensor of the perturbing or else in the block
    (None, None),
    (RuntimeError, None),
    (MemoryError, "norm"),
    (KeyboardInterrupt, "scale"),
)
ways = pytest.mark.parametrize(("kept", "revert"), WAYS.values(), ids=WAYS)


@with_both_noises
@ways
@dtypes
def test_dozens_of_members_leave_every_bit_however_they_end(kept, revert, dtype):
    drift = None if kept is None else some_drift(dtype, kept)
    weights = some_weights(dtype) if drift is None else drift.weights
    before = bits_of(weights)

    for i in range(60):  # each sign with each ending and each sigma
        member, (ending, weights.fails_at) = Member(i, 1 if i % 3 else -1), ENDINGS[i % 4]
        ends = nullcontext() if ending is None else pytest.raises(ending, match="as planned")
        weights.failure = ending("as planned") if weights.fails_at else None
        with ends, perturbed(weights, member, SIGMAS[i % 5], drift, revert):
            assert weights.fails_at is None, "the perturbing went on"
            if ending is not None:
                raise ending("as planned")

        assert bits_of(weights) == before, f"member {i}"


@dtypes
def test_the_model_has_weights_plus_noise_in_the_block_and_its_bits_after_it(dtype):
    draw = torch.Generator().manual_seed(0)
    large = (0.02 * torch.randn(200_001, generator=draw)).to(dtype)
    model = Tensors(large=large, odd=awkward_numbers(dtype), scale=torch.tensor(0.5).to(dtype))
    weights = Weights(model, scratch=48 * 90_000)
    plain, before = copy_of_tensors(weights), bits_of(weights)

    for sigma, sign in product(SIGMAS, (1, -1)):
        with perturbed(weights, Member(5, sign), sigma):
            inside = {name: tensor_bits(parameter) for name, parameter in model.named_parameters()}
        assert bits_of(weights) == before
        for name, parameter in plain.named_parameters():
            shift = noise(5, name, 0, parameter.numel()) * (sigma * sign)
            assert inside[name] == tensor_bits((parameter + shift).to(dtype))

    sizes = [piece.count for piece in weights.pieces() if piece.name == "large"]
    assert sizes == [89_856, 89_856, 20_289]  # more than one block of 65,536 in each, too


@with_both_noises
@kinds
@pytest.mark.parametrize("sigma", SIGMAS)
@dtypes
def test_both_ways_agree_inside_the_block_and_after_it(dtype, sigma, kept):
    drift, other = (some_drift(dtype, kept) for _ in range(2))
    restored, logged = drift.weights, other.weights
    rank = max((one.rank for one in map(restored.factors, restored.names) if one), default=None)
    bare = Weights(copy_of_tensors(restored), scratch=48 * 31, rank=rank)
    at_base = bits_of(some_weights(dtype))
    before = bits_of(restored)
    assert before != at_base

    for seed in range(3):
        with perturbed(restored, Member(seed), sigma, drift, "restore"):
            inside = bits_of(restored)
        for weights, its_drift in ((logged, other), (bare, None)):
            with perturbed(weights, Member(seed), sigma, its_drift, "log"):
                assert bits_of(weights) == inside
            assert bits_of(weights) == before
        assert bits_of(restored) == before


def copy_of_tensors(weights):
    """Return their tensors, flat but for those with noise of low rank."""
    copies = {name: weights.flat(name).clone() for name in weights.names}
    for name in copies:
        if weights.factors(name) is not None:
            copies[name] = copies[name].view(-1, weights.factors(name).columns)
    return Tensors(**copies)


class Counting(Drift):
    """A drift that counts the pieces that are put together from theta_0 + D."""

    count = 0

    def compose(self, piece):
        self.count += 1
        super().compose(piece)


@pytest.mark.parametrize(("sigma", "pieces"), [(1e-3, 0), (0.1, 1)], ids=["short log", "long log"])
def test_a_log_of_more_than_a_tenth_gives_way_to_theta_0_plus_d(sigma, pieces):
    draw = torch.Generator().manual_seed(0)
    weights = Weights(Tensors(w=(0.2 * torch.randn(5000, generator=draw)).to(torch.bfloat16)))
    walk(drift := Counting(weights), steps=2)
    before = bits_of(weights)

    with perturbed(weights, Member(1), sigma, drift, "log"):
        pass

    assert bits_of(weights) == before
    assert drift.count == pieces


@with_both_noises
@pytest.mark.parametrize("sigma", [1e-3, 6e-3])
@dtypes
def test_the_unmoved_share_is_that_of_the_weights_a_member_leaves_alone(dtype, sigma):
    weights = some_weights(dtype)
    before, plain = bits_of(weights), copy_of_tensors(weights)

    share = unmoved_share(weights, Member(3), sigma)

    assert bits_of(weights) == before
    with perturbed(weights, Member(3), sigma):
        # Values, not bits: no weight of either sign of zero stays a zero with this member.
        pairs = [(weights.flat(name), was.view(-1)) for name, was in plain.named_parameters()]
        unmoved = sum(int((now == was).sum()) for now, was in pairs)
    assert share == unmoved / weights.numel > 0


@pytest.mark.parametrize(
    ("sigma", "revert", "message"),
    [
        *((sigma, None, "expected a positive number") for sigma in (0.0, -1e-3, NAN, INF)),
        (1e-3, "restore", "needs a Drift"),
        (1e-3, "undo", "expected 'restore' or 'log'"),
    ],
)
def test_a_sigma_or_a_revert_that_cannot_be_is_refused(sigma, revert, message):
    weights = some_weights(torch.float32)
    before = bits_of(weights)

    with pytest.raises(ValueError, match=message):
        perturbed(weights, Member(1), sigma, None, revert).__enter__()

    assert bits_of(weights) == before
    with perturbed(weights, Member(1), 1e-3):  # nothing is held
        pass


@with_both_noises
def test_the_drift_of_other_weights_is_refused():
    weights, drift = some_weights(torch.float32), some_drift(torch.float32)

    with pytest.raises(ValueError, match="the drift is of other weights"):
        perturbed(weights, Member(1), 1e-3, drift).__enter__()
