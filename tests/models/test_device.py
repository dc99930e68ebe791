"""Which device and which dtype a model is loaded on."""

import pytest
import torch

from esft.errors import ModelError
from esft.models import device as devices
from esft.models.device import choose_device, choose_gguf_dtype, computes_bfloat16, parse_dtype


def a_machine_with(monkeypatch, *, cuda=0, mps=False):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "first"), [(1, True, "cuda:0"), (0, True, "mps"), (0, False, "cpu")]
)
def test_without_a_name_the_best_device_is_chosen(cuda, mps, first, monkeypatch):
    a_machine_with(monkeypatch, cuda=cuda, mps=mps)

    assert choose_device(None) == torch.device(first)


def test_a_named_device_is_taken(monkeypatch):
    a_machine_with(monkeypatch, cuda=2, mps=True)

    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("cuda") == torch.device("cuda:0")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("mps") == torch.device("mps")


@pytest.mark.parametrize("name", ["cuda:2", "mps"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name, monkeypatch):
    a_machine_with(monkeypatch, cuda=2)

    with pytest.raises(
        ModelError, match=f"{name} is not available, expected one of cuda:0, cuda:1"
    ):
        choose_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:-1", "meta", ""])
def test_a_device_of_no_known_kind_is_refused(name, monkeypatch):
    a_machine_with(monkeypatch)

    with pytest.raises(ModelError, match="expected cuda, cuda:N, mps or cpu") as caught:
        choose_device(name)

    assert caught.value.hint == "this machine has cpu"


@pytest.mark.parametrize("name", ["int8", "fp16", "float64", "nn"])
def test_any_other_dtype_is_refused(name):
    with pytest.raises(ModelError, match=f"dtype is '{name}', expected float32, float16, bfloat16"):
        parse_dtype(name)

    assert parse_dtype("bfloat16") is torch.bfloat16


@pytest.mark.parametrize(
    ("kind", "native", "dtype"),
    [
        ("cpu", True, torch.bfloat16),
        ("cpu", False, torch.float32),
        ("cuda", True, torch.bfloat16),
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
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"bf16": True, "neon": True}, True),
        ({"neon": True, "bf16": False}, False),
    ],
)
def test_a_cpu_computes_bfloat16_if_it_has_instructions_for_it(capabilities, native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    assert computes_bfloat16(torch.device("cpu")) is native


def test_a_gpu_that_emulates_bfloat16_does_not_compute_in_it(monkeypatch):
    asked = {}
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.update(how) or False)

    assert not computes_bfloat16(torch.device("cuda:0"))
    assert asked == {"including_emulation": False}
