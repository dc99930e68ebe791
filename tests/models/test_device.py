"""Which device and which dtype a model is loaded on."""

import pytest
import torch

from esft.errors import ModelError
from esft.models import device as devices
from esft.models.device import (
    choose_device,
    choose_gguf_dtype,
    computes_bfloat16,
    emulates,
    parse_dtype,
)


def a_machine_with(monkeypatch, *, cuda=0, mps=False):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "device"),
    [
        (1, True, None, "cuda:0"),
        (0, True, None, "mps"),
        (0, False, None, "cpu"),
        (2, True, "cpu", "cpu"),
        (2, True, "cuda", "cuda:0"),
        (2, True, "cuda:1", "cuda:1"),
        (2, True, "mps", "mps"),
    ],
)
def test_the_named_device_is_taken_or_else_the_best(cuda, mps, name, device, monkeypatch):
    a_machine_with(monkeypatch, cuda=cuda, mps=mps)

    assert choose_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("cuda:2", "cuda:2 is not available, expected one of cuda:0, cuda:1", "leave the device"),
        ("gpu", "is 'gpu', expected cuda, cuda:N, mps or cpu", "this machine has cuda:0, cuda:1"),
        ("cuda:-1", "expected cuda, cuda:N, mps or cpu", "this machine has"),
    ],
)
def test_any_other_device_is_refused_with_those_that_are_there(name, message, hint, monkeypatch):
    a_machine_with(monkeypatch, cuda=2)

    with pytest.raises(ModelError, match=message) as caught:
        choose_device(name)

    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("name", ["float64", "nn"])
def test_any_other_dtype_is_refused(name):
    with pytest.raises(ModelError, match=f"dtype is '{name}', expected float32, float16, bfloat16"):
        parse_dtype(name)

    assert parse_dtype("bfloat16") is torch.bfloat16


@pytest.mark.parametrize(
    ("kind", "native", "dtype"),
    [
        ("cpu", True, torch.bfloat16),
        ("cpu", False, torch.float32),
        ("cuda", False, torch.float16),
        ("mps", True, torch.bfloat16),
    ],
)
def test_gguf_weights_become_what_the_device_computes_in(kind, native, dtype, monkeypatch):
    monkeypatch.setattr(devices, "computes_bfloat16", lambda device: native)

    chosen, why = choose_gguf_dtype(torch.device(kind))

    assert chosen is dtype
    assert "bfloat16" in why


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"bf16": True, "neon": True}, True),
        ({"neon": True, "bf16": False}, False),
    ],
)
def test_a_cpu_computes_bfloat16_if_it_has_instructions_for_it(capabilities, native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    assert computes_bfloat16(torch.device("cpu")) is native


def test_a_gpu_that_emulates_bfloat16_does_not_compute_in_it(monkeypatch):
    options = {}
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.device("cpu"))
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda **given: options.update(given) or False
    )

    assert not computes_bfloat16(torch.device("cuda:0"))
    assert options == {"including_emulation": False}


@pytest.mark.parametrize(
    ("kind", "machine", "capabilities", "slow"),
    [
        ("cpu", "x86_64", {"avx2": True}, ["float16", "bfloat16"]),
        ("cpu", "x86_64", {"avx512_bf16": True}, ["float16"]),
        ("cpu", "AMD64", {"amx_bf16": True, "amx_fp16": True}, []),
        ("cpu", "aarch64", {"neon": True}, []),
        ("cuda", "x86_64", {"avx2": True}, []),
    ],
)
def test_a_cpu_emulates_the_half_precision_that_it_has_no_units_for(
    kind, machine, capabilities, slow, monkeypatch
):
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    dtypes = ("float32", "float16", "bfloat16")
    found = [name for name in dtypes if emulates(torch.device(kind), getattr(torch, name))]

    assert found == slow
