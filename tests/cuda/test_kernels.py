"""The passes of a device have the bits of plain torch on a CPU."""

import pytest
import torch
from on_device import drift_on, forms, kept_bits, kernels_of, reference, weights_on
from some_weights import bits_of, dtypes, kinds, tensor_bits, walk

from esft.engine import Member, noise, visiting
from esft.engine.kernels import chosen_kernels
from esft.engine.noise import MAX_ELEMENTS

SIGMAS = (1e-3, 0.1, 1e4)  # few weights stay, none, and an overflow in float16
DECAYS = ({}, {"decay": 1.0, "norm": "l1"}, {"decay": 10.0, "norm": "l2"})


def test_the_kernels_of_cuda_are_tritons(device):
    expected = {"cuda": "triton", "cpu": "numba"}[device.type]

    assert chosen_kernels(device).name == expected


@pytest.mark.parametrize("start", [0, 1, 1 << 31, MAX_ELEMENTS - 1000])
@pytest.mark.parametrize("seed", [0, 1, -5, 1 << 62])
def test_noise_has_the_bits_of_the_cpu(device, seed, start):
    here, there = (noise(seed, "w", start, 1000, on) for on in (device, "cpu"))

    assert tensor_bits(here) == tensor_bits(there)


@forms
@pytest.mark.parametrize("count", [1, 255, 256, 257, 70_000])
def test_accumulate_has_the_bits_of_the_cpu(device, form, count):
    nets = [(seed, 0.1 * (seed - 7)) for seed in range(17)]
    totals = {on: torch.full((count,), 0.5, device=on) for on in (device, torch.device("cpu"))}

    for on, total in totals.items():
        kernels_of(form if on == device else "torch", on).accumulate(total, "w", 512, nets)

    here, there = totals.values() if len(totals) == 2 else [*totals.values()] * 2
    assert tensor_bits(here) == tensor_bits(there)


@forms
@kinds
@dtypes
def test_members_have_the_bits_of_the_cpu(device, form, dtype, kept):
    here = drift_on(device, dtype, kept, kernels=kernels_of(form, device))
    there = reference(dtype, kept)

    for drift in (here, there):
        walk(drift, steps=2)
    for sigma in SIGMAS:
        for seed in range(5):
            inside = []
            for drift in (here, there):
                with visiting(drift.weights, sigma, drift) as visit:
                    visit(Member(seed, -1 if seed % 2 else 1))
                    inside.append(bits_of(drift.weights))
            assert inside[0] == inside[1], (sigma, seed)
    assert bits_of(here.weights) == bits_of(there.weights)


@forms
@pytest.mark.parametrize("decay", DECAYS, ids=str)
@kinds
@dtypes
def test_steps_have_the_bits_of_the_cpu(device, form, dtype, kept, decay):
    here = drift_on(device, dtype, kept, kernels=kernels_of(form, device))
    there = reference(dtype, kept)

    for drift in (here, there):
        walk(drift, steps=3, **decay)
        drift.step([], [], 0.01, **decay)

    assert kept_bits(here) == kept_bits(there)
    assert bits_of(here.weights) == bits_of(there.weights)
    assert here.norm() == pytest.approx(there.norm(), rel=1e-12)


@dtypes
def test_the_size_of_the_pieces_changes_no_bit(device, dtype):
    small, whole = (weights_on(device, dtype, scratch=size) for size in (48 * 256, 64 << 20))

    for weights in (small, whole):
        with visiting(weights, 0.1) as visit:
            visit(Member(3))
            weights.inside = bits_of(weights)

    assert small.inside == whole.inside
