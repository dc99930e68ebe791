"""How D is kept: float32 as it is, float16 scaled and rounded without leaning to one side."""

import pytest
import torch

from esft.engine.kept import KINDS, kept_drift

N = 100_000


def one_pass(kept, values, seed=0, largest_update=None):
    """Keep `values` in one pass and return them as they are said to be kept."""
    largest = float(values.abs().max())
    kept.open_step(largest if largest_update is None else largest_update)
    said = kept.write(0, values.clone(), seed, put)
    kept.close_step(largest)
    return said


def put(into, values):
    into.copy_(values)


def bytes_of(kept):
    return sum(tensor.nbytes for tensor in kept.tensors.values())


def read(kept, start, count):
    return kept.read(kept.parts(start, count))


def kept_in(kind, values, seed=0):
    kept = kept_drift("w", values.numel(), kind)
    said = one_pass(kept, values, seed)
    return kept, said


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_at_zero_and_reads_what_write_said(kind):
    values = torch.randn(N, generator=torch.Generator().manual_seed(0)) * 1e-3
    kept = kept_drift("w", N, kind)
    assert read(kept, 0, N).count_nonzero() == 0

    said = one_pass(kept, values)

    assert read(kept, 0, N).equal(said)
    assert read(kept, 512, 300).equal(said[512:812])


def test_float32_keeps_every_bit_in_four_bytes_and_float16_takes_two():
    values = torch.randn(N, generator=torch.Generator().manual_seed(0))

    kept, said = kept_in("float32", values)

    assert said.equal(values)
    assert bytes_of(kept) == 4 * N
    assert bytes_of(kept_drift("w", N, "float16")) == 2 * N


@pytest.mark.parametrize("size", [1e-12, 1e-7, 1.0, 1e6, 1e12])
def test_float16_keeps_eleven_bits_of_drifts_of_every_size(size):
    draw = torch.Generator().manual_seed(0)
    values = size * (0.001 + torch.rand(N, generator=draw))

    _, said = kept_in("float16", values)

    assert ((said - values).abs() <= values.abs() * 2**-10).all()


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("sign", [1, -1])
def test_float16_rounds_up_as_often_as_the_part_that_is_lost(part, sign):
    step = 2**-10  # of float16 between 1 and 2
    values = torch.full((N,), sign * (1 + part * step))

    _, said = kept_in("float16", values, seed=3)

    up = float((said.abs() > 1).double().mean())
    assert abs(up - part) <= 5 * (part * (1 - part) / N) ** 0.5 + 2**-13  # 13 bits of chance
    assert set(said.tolist()) <= {sign * 1.0, sign * (1 + step)}


def test_float16_rounds_by_the_seed():
    values = torch.full((N,), 1 + 2**-11)

    zero, again, other = (kept_in("float16", values, seed)[1] for seed in (0, 0, 42))

    assert zero.equal(again)
    assert abs(float((zero == other).double().mean()) - 0.5) <= 2.5 / N**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zeros(kind):
    _, said = kept_in(kind, torch.zeros(N))

    assert said.count_nonzero() == 0


@pytest.mark.parametrize(("kind", "within"), [("float16", 2**-10), ("int8", 2 / 127)])
def test_a_pass_in_pieces_reads_the_last_pass_while_it_writes_the_next(kind, within):
    kept, said = kept_in(kind, torch.full((500,), 1e-3))

    # The second pass has another scale, and the second piece is read after the first is written.
    kept.open_step(largest_update=1.0)
    kept.write(0, read(kept, 0, 256) + 1, 1, put)
    second = read(kept, 256, 244)
    kept.write(256, second + 1, 1, put)
    kept.close_step(1.001)

    assert second.equal(said[256:])
    assert read(kept, 0, 500) == pytest.approx(1.001, rel=within)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="dtype is 'int4', expected one of float32, float16, int8"):
        kept_drift("w", 1, "int4")
