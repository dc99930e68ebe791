"""A member leaves no trace, and both ways of undoing it give the same bits."""

import pytest
import torch
from some_weights import (
    DRIFT_DTYPES,
    DTYPES,
    Tensors,
    awkward_numbers,
    bits_of,
    some_drift,
    some_model,
    some_weights,
    tensor_bits,
    walk,
)

from esft.engine import Drift, Member, Weights, noise, perturbed
from esft.engine.perturb import revert_way, unmoved_share

SIGMAS = (1e-3, 3e-3, 6e-3, 0.1, 1e4)  # short logs, long ones, and an overflow in float16
WAYS = {  # how the drift is kept, how members are undone
    "log without a drift": (None, "log"),
    "log with a drift": ("float16", "log"),
    "restore": ("float32", "restore"),
}
ways = pytest.mark.parametrize(("kept", "revert"), WAYS.values(), ids=WAYS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@ways
@dtypes
def test_a_thousand_members_leave_every_bit_however_they_end(kept, revert, dtype):
    drift = None if kept is None else some_drift(dtype, kept)
    weights = some_weights(dtype) if drift is None else drift.weights
    before = bits_of(weights)
    endings = (ends_well, raises, runs_out_of_memory, is_interrupted)

    for i in range(1000):
        member = Member(seed=i, sign=1 if i % 3 else -1)
        endings[i % 4](weights, member, SIGMAS[i % 5], drift, revert)

        assert bits_of(weights) == before, f"member {i}"


def ends_well(*member):
    with perturbed(*member):
        pass


def raises(*member):
    with pytest.raises(RuntimeError, match="grader failed"), perturbed(*member):
        raise RuntimeError("grader failed")


def runs_out_of_memory(weights, *member):
    weights.fails_at, weights.failure = "norm", MemoryError("at the third tensor")
    with pytest.raises(MemoryError, match="third tensor"), perturbed(weights, *member):
        pytest.fail("the perturbing went on")


def is_interrupted(weights, *member):
    weights.fails_at, weights.failure = "scale", KeyboardInterrupt("at the last tensor")
    with pytest.raises(KeyboardInterrupt, match="last tensor"), perturbed(weights, *member):
        pytest.fail("the perturbing went on")


@dtypes
def test_a_tensor_larger_than_the_scratch_comes_back(dtype):
    draw = torch.Generator().manual_seed(0)
    values = 0.02 * torch.randn(200_001, generator=draw)
    weights = Weights(Tensors(embed=values.to(dtype)), scratch=48 * 90_000)
    before = bits_of(weights)
    sizes = [piece.count for piece in weights.pieces()]

    for sigma in SIGMAS:
        with perturbed(weights, Member(5), sigma):
            inside = bits_of(weights)
        assert bits_of(weights) == before
        assert inside["embed"] == tensor_bits(plain_sum(values.to(dtype), "embed", 5, sigma))

    assert sizes == [89_856, 89_856, 20_289]  # more than one block of 65,536 in each, too


def plain_sum(weights, name, seed, scale):
    """round(w + scale * noise), the whole tensor at once."""
    shift = noise(seed, name, 0, weights.numel()) * scale
    return (weights.view(-1) + shift).to(weights.dtype)


@pytest.mark.parametrize("sign", [1, -1])
@dtypes
def test_inside_the_block_the_model_has_weights_plus_noise(dtype, sign):
    model = some_model(dtype)
    expected = {
        name: tensor_bits(plain_sum(parameter, name, 7, 1e-2 * sign))
        for name, parameter in model.named_parameters()
    }
    weights = Weights(model)

    with perturbed(weights, Member(7, sign), 1e-2):
        inside = {name: tensor_bits(parameter) for name, parameter in model.named_parameters()}

    assert inside == expected


def test_the_members_of_a_pair_are_mirror_images():
    weights = Weights(Tensors(w=torch.zeros(1000)))

    with perturbed(weights, Member(7, 1), 1e-3):
        plus = weights.flat("w").clone()
    with perturbed(weights, Member(7, -1), 1e-3):
        minus = weights.flat("w").clone()

    assert plus.equal(-minus)
    assert plus.std() == pytest.approx(1e-3, rel=0.15)  # 5 standard errors at 1,000 draws


@pytest.mark.parametrize("kept", DRIFT_DTYPES)
@pytest.mark.parametrize("sigma", SIGMAS)
@dtypes
def test_both_ways_agree_inside_the_block_and_after_it(dtype, sigma, kept):
    drift, other = (some_drift(dtype, kept) for _ in range(2))
    restored, logged = drift.weights, other.weights
    bare = Weights(copy_of_tensors(restored), scratch=48 * 31)
    at_base = bits_of(some_weights(dtype))
    before = bits_of(restored)
    assert before != at_base

    for seed in range(20):
        with perturbed(restored, Member(seed), sigma, drift, "restore"):
            inside = bits_of(restored)
        for weights, its_drift in ((logged, other), (bare, None)):
            with perturbed(weights, Member(seed), sigma, its_drift, "log"):
                assert bits_of(weights) == inside
            assert bits_of(weights) == before
        assert bits_of(restored) == before


def copy_of_tensors(weights):
    return Tensors(**{name: weights.flat(name).clone() for name in weights.names})


def test_without_a_drift_members_are_logged_and_with_one_at_hand_restored():
    assert revert_way(None) == "log"
    assert revert_way(some_drift(torch.bfloat16)) == "restore"


@pytest.mark.parametrize(
    ("sigma", "composes"), [(1e-3, False), (0.1, True)], ids=["a short log", "a long log"]
)
def test_a_log_of_more_than_a_tenth_gives_way_to_theta_0_plus_d(sigma, composes, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    model = Tensors(w=(0.2 * torch.randn(5000, generator=draw)).to(torch.bfloat16))
    weights = Weights(model)
    walk(drift := Drift(weights), steps=2)
    before = bits_of(weights)
    composed = []
    plain = Drift.composed

    def counted(self, piece):
        composed.append(piece.name)
        return plain(self, piece)

    monkeypatch.setattr(Drift, "composed", counted)
    with perturbed(weights, Member(1), sigma, drift, "log"):
        pass

    assert bits_of(weights) == before
    assert bool(composed) is composes


@pytest.mark.parametrize("sigma", [1e-3, 6e-3])
@dtypes
def test_the_unmoved_share_is_that_of_the_weights_a_member_leaves_alone(dtype, sigma):
    weights = some_weights(dtype)
    before = copy_of_tensors(weights)
    as_before = bits_of(weights)

    share = unmoved_share(weights, Member(3), sigma)

    assert bits_of(weights) == as_before
    with perturbed(weights, Member(3), sigma):
        unmoved = sum(
            int((weights.flat(name) == getattr(before, name).view(-1)).sum())
            for name in weights.names
        )
    # Values, not bits: no weight of either sign of zero stays a zero with this member.
    assert share == unmoved / weights.numel
    assert share > 0


def test_awkward_numbers_are_what_they_say():
    for dtype in DTYPES:
        numbers = awkward_numbers(dtype)
        zeros = numbers[numbers == 0]
        assert set(torch.signbit(zeros).tolist()) == {True, False}
        assert (numbers.abs()[numbers != 0] < torch.finfo(dtype).smallest_normal).any()
        assert (numbers.abs() == torch.finfo(dtype).max).any()


@pytest.mark.parametrize("sigma", [0.0, -1e-3, float("nan"), float("inf")])
def test_a_sigma_that_is_not_positive_is_refused(sigma):
    weights = some_weights(torch.float32)

    with (
        pytest.raises(ValueError, match="expected a positive number"),
        perturbed(weights, Member(1), sigma),
    ):
        pytest.fail("the block was entered")


@pytest.mark.parametrize(
    ("revert", "message"),
    [("restore", "needs a Drift"), ("undo", "expected 'restore' or 'log'")],
)
def test_a_way_that_cannot_be_gone_is_refused(revert, message):
    weights = some_weights(torch.float32)
    before = bits_of(weights)

    with (
        pytest.raises(ValueError, match=message),
        perturbed(weights, Member(1), 1e-3, None, revert),
    ):
        pytest.fail("the block was entered")

    assert bits_of(weights) == before
    with perturbed(weights, Member(1), 1e-3):  # nothing is held any more
        pass


def test_two_changes_at_once_are_refused_and_leave_every_bit():
    drift = some_drift(torch.bfloat16, "float32")
    weights = drift.weights
    before = bits_of(weights)

    with perturbed(weights, Member(1), 1e-3, drift):
        inside = bits_of(weights)
        with pytest.raises(ValueError, match="a step while the weights are held by perturbed"):
            walk(drift, 1)
        with (
            pytest.raises(ValueError, match="at_base while the weights are held by perturbed"),
            drift.at_base(),
        ):
            pytest.fail("the block was entered")
        with (
            pytest.raises(ValueError, match="perturbed while the weights are held by perturbed"),
            perturbed(weights, Member(2), 1e-3, drift),
        ):
            pytest.fail("the block was entered")
        assert bits_of(weights) == inside

    assert bits_of(weights) == before


def test_the_drift_of_other_weights_is_refused():
    weights, drift = some_weights(torch.float32), some_drift(torch.float32)

    with (
        pytest.raises(ValueError, match="the drift is of other weights"),
        perturbed(weights, Member(1), 1e-3, drift),
    ):
        pytest.fail("the block was entered")
