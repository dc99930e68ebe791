"""A step in one pass of numba is the step of `update.py`; threads change no bit."""

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from threading import Event, current_thread

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from some_pieces import assert_same_bits, drifts, dtypes, forms, names, nets, numbers, places, seeds
from some_weights import DRIFT_DTYPES

from esft.engine import Member, Weights, perturbed
from esft.engine.kept import KINDS
from esft.engine.kernels import Kernels, chosen_kernels
from esft.engine.kernels.reference import BLOCK, Part, Stored, Update, read
from esft.engine.noise import MAX_NOISE, Factors
from esft.engine.update import update_piece
from esft.engine.weights import Piece

# Elements, more than a buffer of numba's.
MOST = 1300
factors = st.none() | st.builds(Factors, columns=st.integers(1, 2 * MOST), rank=st.integers(1, 3))
# More than the first shares of two threads.
MANY = 2 * (1 << 18) + 1001


@pytest.fixture(scope="module")
def kernels():
    pytest.importorskip("numba")
    return chosen_kernels(torch.device("cpu"))


@st.composite
def updates(draw):
    return Update(
        nets=draw(nets),
        scale=draw(st.sampled_from([5e-4 / 30, 1e-2, 1e37]) | st.floats(1e-9, 10)),
        pull=draw(st.sampled_from([0.0, 5e-6, 5e-3, 1.0]) | st.floats(0, 1)),
        norm=draw(st.sampled_from(["l1", "l2"])),
        rounding=draw(seeds),
    )


def step(kernels, name, start, base, drift, update, factors=None):
    """Make a step of a piece; return what is kept of D, the weights and what was noted."""
    kept = KINDS[str(drift.values.dtype).removeprefix("torch.")](name, base.numel())
    if "exponent" in kept.figures:
        largest = float(read(drift).abs().max())
        kept.figures = {"exponent": -round(math.log2(drift.factor)), "largest": largest}
    elif "owed" in kept.figures:
        kept.figures = {"owed": drift.owed}
    largest = MAX_NOISE if factors is None else factors.largest
    kept.open_step(update.scale * largest * sum(abs(net) for _, net in update.nets))
    parts = [part.clone() for part in (drift.values, drift.scales) if part is not None]
    put = []  # what the plain way keeps; the pass writes to `parts`

    piece = Piece(name, start, torch.empty_like(base), factors)
    found = update_piece(
        kernels, piece, base, kept, parts, update, lambda _, part: put.append(part)
    )
    return put or parts, piece.flat, found


@given(st.data(), places(MOST), dtypes, forms, names, updates(), factors)
@settings(max_examples=120)
def test_a_step_has_the_bits_of_the_plain_one(
    kernels, data, place, dtype, form, name, update, made
):
    start, count = place
    # A number that is not finite ends the run that made it.
    base = data.draw(numbers(count, dtype)).nan_to_num(0, 0, 0)
    drift = data.draw(drifts(count, form))
    if form != "int8":
        drift = replace(drift, values=drift.values.nan_to_num(0, 0, 0))
    plain_kept, plain_theta, plain = step(Kernels(), name, start, base, drift, update, made)

    kept, theta, found = step(kernels, name, start, base, drift, update, made)

    assert math.isfinite(found.peak) == math.isfinite(plain.peak)
    if math.isfinite(plain.peak):
        assert (found.peak, found.reach) == (float(plain.peak), float(plain.reach))
        # Sums of squares in float64, in two orders.
        assert found.length == pytest.approx(float(plain.length), rel=1e-12, abs=0)
        for part, plain_part in zip([theta, *kept], [plain_theta, *plain_kept], strict=True):
            assert_same_bits(part, plain_part)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def zeros(form, count):
    values = torch.zeros(count, dtype=getattr(torch, form))
    return Stored(values, torch.zeros(-(-count // BLOCK)) if form == "int8" else None)


@pytest.mark.parametrize("scale", [1e-37, 8e37])
@pytest.mark.parametrize("form", DRIFT_DTYPES)
def test_the_smallest_and_the_largest_steps_are_kept_as_the_plain_one_keeps_them(
    kernels, form, scale
):
    update = Update(nets=[(1, 1.0)], scale=scale, pull=0.0, norm="l2", rounding=3)
    made = [
        step(form_of, "w", 0, torch.zeros(2 * BLOCK), zeros(form, 2 * BLOCK), update)
        for form_of in (Kernels(), kernels)
    ]

    for plain, fast in zip(*(kept for kept, _, _ in made), strict=True):
        assert_same_bits(fast, plain)
    assert_same_bits(made[1][1], made[0][1])


@pytest.mark.parametrize("at", [0, 1500, 2999])
def test_what_a_step_notes_is_that_of_all_it_goes_through(kernels, at):
    drift = zeros("float32", 3000)
    drift.values[at] = 5.0
    update = Update(nets=[], scale=1.0, pull=0.5, norm="l2", rounding=3)

    _, _, found = step(kernels, "w", 0, torch.zeros(3000), drift, update)

    assert (found.peak, found.length, found.reach) == (2.5, 2.5, 2.5)


@pytest.mark.parametrize("form", DRIFT_DTYPES)
def test_threads_change_no_bit(kernels, threads, form):
    random = torch.Generator().manual_seed(0)
    base = (0.02 * torch.randn(MANY, generator=random)).to(torch.bfloat16)
    codes = torch.randint(-127, 128, (MANY,), generator=random)
    scales = 1e-5 * torch.rand(-(-MANY // BLOCK), generator=random)
    drift = {
        "float32": Stored(codes * 1e-5),
        "float16": Stored(codes.to(torch.float16), factor=2.0**-17),
        "int8": Stored(codes.to(torch.int8), scales, owed=1e-6),
    }[form]
    update = Update([(1, 0.5), (2, -1.5)], 1e-3, 5e-6, "l1", rounding=3)

    def passes():
        perturbed, total = torch.empty_like(base), torch.zeros(MANY)
        kernels.perturb([Part("weight", 256, perturbed, base, drift)], 1, 1e-3)
        kernels.accumulate(total, "weight", 256, update.nets)
        kept, theta, found = step(kernels, "weight", 256, base, drift, update)
        return [perturbed, total, *kept, theta], found

    threads(1)
    tensors, found = passes()
    threads(2)
    tensors_by_two, found_by_two = passes()

    assert found_by_two == found
    for tensor, expected in zip(tensors_by_two, tensors, strict=True):
        assert_same_bits(tensor, expected)


def test_an_interruption_is_passed_on_when_no_other_thread_works_any_more(kernels, threads):
    from esft.engine.kernels.numba_cpu import CHUNK, share_out

    threads(2)
    begun, ended, here = Event(), [], current_thread()

    def work(first, last):
        if current_thread() is here:
            assert begun.wait(10)
            raise KeyboardInterrupt
        begun.set()
        time.sleep(0.2)
        ended.append(first)

    with pytest.raises(KeyboardInterrupt):
        share_out([(6 * CHUNK, work)])

    assert ended == [CHUNK]  # what was in hand, and no more
    time.sleep(0.3)
    assert ended == [CHUNK]


FULL_DISK = """
import resource, torch
from esft.engine import Member, Weights, perturbed
weights = Weights(torch.nn.LayerNorm(300))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
with perturbed(weights, Member(1), 1e-3):
    print(weights.kernels.name)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of a file")
def test_a_full_disk_keeps_no_compiled_form_and_stops_no_pass(kernels, tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK], capture_output=True, text=True, env=environment
    )

    assert done.stdout == "numba\n", done.stderr
    assert list(tmp_path.rglob("*.nbc")) == []


def test_where_numba_cannot_be_imported_the_reference_makes_the_same_bits(kernels, monkeypatch):
    def perturbed_weights():
        weights = Weights(torch.nn.LayerNorm(300))
        with perturbed(weights, Member(1), 1e-3):
            kernels = weights.kernels
            return (kernels.name, kernels.missing), [
                weights.flat(name).clone() for name in weights.names
            ]

    by_numba, expected = perturbed_weights()
    monkeypatch.setitem(sys.modules, "numba", None)
    by_torch, found = perturbed_weights()

    assert by_numba == ("numba", None)
    assert by_torch[0] == "torch"
    assert by_torch[1].startswith("numba does not run here: ")
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(one, other)
