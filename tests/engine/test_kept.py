"""How D is kept: as written, scaled and rounded without a lean, and in int8 exact as it decays."""

import pytest
import torch

from esft.engine.kept import KINDS
from esft.engine.kernels.reference import read as read_stored

N = 100_000
TOP = 127  # the largest code of int8


def drawn(size=1.0, count=N):
    return size * torch.randn(count, generator=torch.Generator().manual_seed(0))


def put(into, values):
    into.copy_(values)


def one_pass(kept, values, seed=0):
    """Keep `values` in one pass and return them as they are said to be kept."""
    largest = float(values.abs().max())
    kept.open_step(largest)
    said = kept.write(0, values.clone(), seed, put)
    kept.close_step(largest)
    return said


def kept_in(kind, values, seed=0, name="w"):
    kept = KINDS[kind](name, values.numel())
    return kept, one_pass(kept, values, seed)


def read(kept, start=0, count=N):
    return read_stored(kept.stored(kept.parts(start, count)))


def coarseness(kind, values):
    """How far each of `values` may be from what is kept: its last bit, or a code of its block."""
    if kind == "int8":
        largest = [block.abs().max().expand_as(block) for block in values.split(256)]
        return torch.cat(largest) / TOP * (1 + 1e-5)
    return values.abs() * {"float32": 0, "float16": 2**-10}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_at_zero_reads_what_write_said_and_keeps_zeros(kind):
    kept = KINDS[kind]("w", N)
    assert read(kept).count_nonzero() == 0

    said = one_pass(kept, drawn(1e-3))
    assert read(kept).equal(said)
    assert read(kept, 512, 300).equal(said[512:812])

    assert one_pass(kept, torch.zeros(N)).count_nonzero() == 0


@pytest.mark.parametrize(
    ("kind", "numel", "nbytes"),
    [("float32", N, 4 * N), ("float16", N, 2 * N), ("int8", 256, 256 + 4), ("int8", 257, 257 + 8)],
)
def test_it_takes_the_bytes_of_its_elements_and_of_a_scale_for_256(kind, numel, nbytes):
    kept = KINDS[kind]("w", numel)

    assert sum(tensor.nbytes for tensor in kept.tensors.values()) == nbytes


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("float32", 1.0),
        *(("float16", size) for size in (1e-12, 1e-7, 1.0, 1e6, 1e12)),
        *(("int8", size) for size in (1e-30, 1e-12, 1e-3, 1.0, 1e12, 1e30)),
    ],
)
def test_drifts_of_every_size_are_kept_to_their_last_bit_or_code(kind, size):
    values = drawn().sign() * (0.001 + torch.rand(N, generator=torch.Generator().manual_seed(1)))

    _, said = kept_in(kind, size * values)

    assert ((said - size * values).abs() <= coarseness(kind, size * values)).all()


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.5, 0.99])
@pytest.mark.parametrize(
    ("kind", "low", "step"),
    [
        ("float16", 1.0, 2**-10),
        ("float16", -1 - 2**-10, 2**-10),
        *(("int8", code / TOP, 1 / TOP) for code in (0, 3, 100, -1, -101)),
    ],
)
def test_it_rounds_up_as_often_as_the_part_that_is_lost(kind, low, step, part):
    values = torch.full((N // 256 * 256,), low + part * step)
    values[::256] = 1.0  # in int8 the scale of every block is 1 / 127

    _, said = kept_in(kind, values, seed=3)

    steps_up = (said.view(-1, 256)[:, 1:].double() - low) / step
    # float16 has 13 bits of chance; (code + part) / 127 is float32, to 2**-18 of a code.
    within = {"float16": 2**-13, "int8": 2**-16}[kind]
    assert abs(float((steps_up > 0.5).double().mean()) - part) <= (
        5 * (part * (1 - part) / N) ** 0.5 + within
    )
    assert (steps_up - steps_up.round()).abs().max() < 1e-4
    assert set(steps_up.round().unique().tolist()) <= {0, 1}


@pytest.mark.parametrize(("kind", "value"), [("float16", 1 + 2**-11), ("int8", 0.5 / TOP)])
def test_it_rounds_by_the_seed_the_name_and_the_element(kind, value):
    values = torch.full((N,), value)
    values[::256] = 1.0

    zero, again, other = (kept_in(kind, values, seed)[1] for seed in (0, 0, 42))
    _, renamed = kept_in(kind, values, name="v")

    assert zero.equal(again)
    for unlike in (other, renamed, zero.roll(256)):
        assert abs(float((zero == unlike).double().mean()) - 0.5) <= 2.5 / N**0.5 + 1 / 256


@pytest.mark.parametrize(("kind", "within"), [("float16", 2**-10), ("int8", 2 / TOP)])
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


def test_in_int8_a_block_disturbs_no_other_and_a_block_of_zeros_has_scale_0():
    values = drawn(count=800)
    values[:256] *= 1e6
    values[256:512] = 0.0
    values[::3] = 0.0
    values[600] = float("nan")

    kept, said = kept_in("int8", values)

    assert [scale == 0 for scale in kept.tensors[":scales"].tolist()] == [False, True, False, False]
    assert said[:512][values[:512] == 0].count_nonzero() == 0
    assert said[600].isnan()  # what is not a number is not hidden
    for whole in (slice(256), slice(768, 800)):  # the last block is short
        error = (said[whole] - values[whole]).abs()
        assert (error <= coarseness("int8", values[whole])).all()


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-34, 3.4e38, float("inf")])
def test_scales_neither_overflow_nor_sink_into_the_subnormals(size):
    values = torch.full((256,), size)
    values[::2] = -size

    kept, said = kept_in("int8", values)

    assert 2.0**-120 <= float(kept.tensors[":scales"]) <= 2.0**121
    assert said.isfinite().all()
    assert (said - values.clamp(-3.4e38, 3.4e38)).abs().max() <= max(
        2.0**-120, 0.03 * 3.4e38 * (size > 1)
    )


@pytest.mark.parametrize(
    "decays",
    [
        *([(pull, "l2")] for pull in (1e-4, 0.1, 1.0)),
        *([(pull, "l1")] * 10 for pull in (1e-6, 1e-3, 1.0, 1e3)),
        [(0.1, "l1"), (0.25, "l2"), (0.2, "l1"), (0.5, "l2")],
    ],
    ids=str,
)
def test_decays_alone_follow_their_formulas_and_leave_the_codes_of_int8(decays):
    kept, said = kept_in("int8", drawn())
    codes, expected = kept.tensors[""].clone(), said.double()

    for pull, norm in decays:
        assert kept.decay_alone(pull, norm)
        if norm == "l2":
            expected *= 1 - pull
        else:
            expected = torch.copysign((expected.abs() - pull).clamp(min=0), expected)

    assert kept.tensors[""].equal(codes)
    torch.testing.assert_close(read(kept).double(), expected, rtol=0, atol=1e-6)


def test_a_pass_takes_off_what_is_owed_once():
    kept, _ = kept_in("int8", drawn())
    kept.decay_alone(0.5, "l1")
    shrunk = read(kept)

    said = one_pass(kept, shrunk, seed=1)

    assert read(kept).equal(said)
    assert ((said - shrunk).abs() <= coarseness("int8", shrunk)).all()


def test_a_block_that_decays_below_the_smallest_scale_is_zero():
    kept, _ = kept_in("int8", drawn(1e-30))

    kept.decay_alone(1 - 2.0**-20, "l2")

    assert kept.tensors[":scales"].count_nonzero() == 0
    assert read(kept).count_nonzero() == 0
