"""A drift in int8: a scale for 256 elements, rounded without leaning, exact while it decays."""

import pytest
import torch
from test_kept import N, bytes_of, kept_in, one_pass, put, read

from esft.engine.kept import kept_drift

TOP = 127


def drawn(size=1.0, count=N):
    return size * torch.randn(count, generator=torch.Generator().manual_seed(0))


def of(kept):
    """Codes and scales."""
    return kept.tensors[""].clone(), kept.tensors[":scales"].clone()


def test_it_takes_little_more_than_a_byte_an_element():
    assert bytes_of(kept_drift("w", N, "int8")) <= 1.02 * N
    assert bytes_of(kept_drift("w", 256, "int8")) == 256 + 4
    assert bytes_of(kept_drift("w", 257, "int8")) == 257 + 8


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e-3, 1.0, 1e12, 1e30])
def test_it_is_at_most_a_code_away_from_drifts_of_every_size(size):
    values = drawn(size)

    _, said = kept_in("int8", values)

    for start in range(0, N, 256):
        block, kept = values[start : start + 256], said[start : start + 256]
        assert (kept - block).abs().max() <= block.abs().max() / TOP * (1 + 1e-5)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("code", [0, 3, 100, -1, -101])
def test_it_rounds_up_as_often_as_the_part_that_is_lost(part, code):
    values = torch.full((N // 256 * 256,), (code + part) / TOP)
    values[::256] = 1.0  # the scale of every block is 1 / 127

    kept, _ = kept_in("int8", values, seed=3)

    codes = of(kept)[0].view(-1, 256)
    assert set(codes[:, 0].tolist()) == {TOP}
    up = float((codes[:, 1:] > code).double().mean())
    # (code + part) / 127 is rounded to float32, by 2**-18 of a code at most.
    assert abs(up - part) <= 5 * (part * (1 - part) / N) ** 0.5 + 2**-16
    assert set(codes[:, 1:].unique().tolist()) <= {code, code + 1}


def test_it_rounds_by_the_seed_the_name_and_the_element():
    values = torch.full((N,), 0.5 / TOP)
    values[::256] = 1.0

    zero, again, other = (kept_in("int8", values, seed)[1] for seed in (0, 0, 42))
    renamed = one_pass(kept_drift("v", N, "int8"), values)

    assert zero.equal(again)
    for unlike in (other, renamed, zero.roll(256)):
        assert abs(float((zero == unlike).double().mean()) - 0.5) <= 2.5 / N**0.5 + 1 / 256


def test_a_block_of_zeros_has_scale_0_and_a_zero_among_others_stays_0():
    values = drawn(count=768)
    values[256:512] = 0.0
    values[::3] = 0.0

    kept, said = kept_in("int8", values)

    assert [scale == 0 for scale in of(kept)[1].tolist()] == [False, True, False]
    assert said[values == 0].count_nonzero() == 0
    assert said[256:512].equal(torch.zeros(256))


def test_blocks_do_not_disturb_each_other_and_the_last_may_be_short():
    values = drawn(1e-6, count=300)
    values[:256] *= 1e6

    _, said = kept_in("int8", values)

    assert (said[256:] - values[256:]).abs().max() <= values[256:].abs().max() / TOP * (1 + 1e-5)


def test_what_is_not_a_number_is_not_hidden():
    values = drawn(count=512)
    values[300] = float("nan")

    _, said = kept_in("int8", values)

    assert said[300].isnan()
    assert said[:256].isfinite().all()


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-34, 3.4e38, float("inf")])
def test_scales_neither_overflow_nor_sink_into_the_subnormals(size):
    values = torch.full((256,), size)
    values[::2] = -size

    kept, said = kept_in("int8", values)

    assert 2.0**-120 <= float(of(kept)[1]) <= 2.0**121
    assert said.isfinite().all()
    assert (said - values.clamp(-3.4e38, 3.4e38)).abs().max() <= max(
        2.0**-120, 0.03 * 3.4e38 * (size > 1)
    )


@pytest.mark.parametrize("pull", [1e-4, 0.1, 1.0])
def test_l2_alone_multiplies_the_scales_and_leaves_the_codes(pull):
    kept, said = kept_in("int8", drawn())
    codes, scales = of(kept)

    assert kept.decay_alone(pull, "l2")

    assert of(kept)[0].equal(codes)
    torch.testing.assert_close(of(kept)[1], scales * (1 - pull), rtol=1e-6, atol=0)
    torch.testing.assert_close(read(kept, 0, N), said * (1 - pull), rtol=1e-6, atol=0)


@pytest.mark.parametrize("pull", [1e-6, 1e-3, 1.0, 1e3])
def test_l1_alone_shrinks_every_element_by_as_much_and_changes_no_code(pull):
    kept, said = kept_in("int8", drawn())
    before = of(kept)

    for _ in range(10):
        assert kept.decay_alone(pull, "l1")

    expected = torch.copysign((said.abs().double() - 10 * pull).clamp(min=0).float(), said)
    torch.testing.assert_close(read(kept, 0, N), expected, rtol=0, atol=4 * 2**-23)
    assert all(now.equal(then) for now, then in zip(of(kept), before, strict=True))


def test_decays_of_both_norms_follow_each_other_exactly():
    kept, said = kept_in("int8", drawn())
    expected = said.double()

    for pull, norm in [(0.1, "l1"), (0.25, "l2"), (0.2, "l1"), (0.5, "l2")]:
        kept.decay_alone(pull, norm)
        if norm == "l2":
            expected *= 1 - pull
        else:
            expected = torch.copysign((expected.abs() - pull).clamp(min=0), expected)

    torch.testing.assert_close(read(kept, 0, N).double(), expected, rtol=0, atol=1e-6)


def test_a_pass_takes_off_what_is_owed_once():
    kept, _ = kept_in("int8", drawn())
    kept.decay_alone(0.5, "l1")
    shrunk = read(kept, 0, N)

    kept.open_step(0.0)
    said = kept.write(0, shrunk.clone(), 1, put)
    kept.close_step(float(shrunk.abs().max()))

    assert read(kept, 0, N).equal(said)
    assert (said - shrunk).abs().max() <= shrunk.abs().max() / TOP * (1 + 1e-5)


def test_a_block_that_decays_below_the_smallest_scale_is_zero():
    kept, _ = kept_in("int8", drawn(1e-30))

    kept.decay_alone(1 - 2.0**-20, "l2")

    assert of(kept)[1].count_nonzero() == 0
    assert read(kept, 0, N).count_nonzero() == 0
