"""Passes in numba have the bits of the reference; in Triton too, where test_triton_cuda.py asks."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from some_pieces import (
    assert_same_bits,
    drifts,
    dtypes,
    forms,
    names,
    nets,
    numbers,
    places,
    scales,
    seeds,
)

from esft.engine.kernels import Kernels, chosen_kernels
from esft.engine.kernels.reference import Part
from esft.engine.noise import Factors

# Elements, more than a program of Triton or a buffer of numba works on at once.
MOST = 1300
REFERENCE = Kernels()
factors = st.none() | st.builds(Factors, columns=st.integers(1, 2 * MOST), rank=st.integers(1, 3))


@pytest.fixture(scope="module")
def kernels():
    if os.environ.get("TRITON_INTERPRET") == "1":
        from esft.engine.kernels.triton_cuda import TritonKernels

        return TritonKernels()
    pytest.importorskip("numba")
    return chosen_kernels(torch.device("cpu"))


@given(
    st.data(), places(MOST), dtypes, st.none() | forms, names, seeds, scales, factors, st.booleans()
)
@settings(max_examples=80)
def test_perturb(kernels, data, place, dtype, form, name, seed, scale, made, in_place):
    start, count = place
    base = data.draw(numbers(count, dtype))
    drift = None if form is None else data.draw(drifts(count, form))
    expected = torch.empty_like(base)
    REFERENCE.perturb([Part(name, start, expected, base, drift, made)], seed, scale)

    out = base if in_place else torch.empty_like(base)
    kernels.perturb([Part(name, start, out, base, drift, made)], seed, scale)

    assert_same_bits(out, expected)


@given(st.data(), st.integers(1, MOST), dtypes, forms)
@settings(max_examples=40)
def test_compose(kernels, data, count, dtype, form):
    base, drift = data.draw(numbers(count, dtype)), data.draw(drifts(count, form))
    out, expected = torch.empty_like(base), torch.empty_like(base)
    REFERENCE.compose([Part("weight", 0, expected, base, drift)])

    kernels.compose([Part("weight", 0, out, base, drift)])

    assert_same_bits(out, expected)


@given(st.data(), places(MOST), names, nets, factors)
@settings(max_examples=40)
def test_accumulate(kernels, data, place, name, members, made):
    start, count = place
    total = data.draw(numbers(count, torch.float32))
    expected = total.clone()
    REFERENCE.accumulate(expected, name, start, members, made)

    kernels.accumulate(total, name, start, members, made)

    assert_same_bits(total, expected)
