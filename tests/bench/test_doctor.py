"""A machine that is well is said to be; one that is not, and why."""

from itertools import count

import pytest
import torch
from tiny_models import letters_model, tiny_tokenizer, write_model
from tiny_runs import Notes

from esft.bench.doctor import examine, hub_check
from esft.bench.promises import NOTE, determinism, exactness
from esft.engine.kernels import Kernels
from esft.models.load import load_model
from esft.recipe.settings import Anchor
from esft.tuning.base import open_base
from esft.tuning.memory import room_on
from esft.tuning.verify import FAILED, OK


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("doctor") / "model"
    return write_model(path, letters_model(tiny_tokenizer()))


@pytest.fixture
def loaded(folder):
    return load_model(str(folder), device="cpu")


def results(checks):
    return {check.what: check.result for check in checks}


def a_base(loaded):
    return open_base(loaded, Anchor(), 0, None, None, room_on(loaded.device))


class Unsteady(Kernels):
    """Passes that draw other noise at every call, and leave weights beside what they should be."""

    def __init__(self):
        super().__init__()
        self._calls = count()

    def perturb(self, parts, seed, scale):
        super().perturb(parts, seed + next(self._calls), scale)

    def compose(self, parts):
        for part in parts:
            super().compose([part])
            part.out.add_(1e-3)

    def accumulate(self, total, name, start, nets, factors=None):
        others = [(next(self._calls), net) for _, net in nets]
        super().accumulate(total, name, start, others, factors)


def test_on_a_machine_that_is_well_nothing_fails(folder, monkeypatch):
    monkeypatch.setattr("esft.bench.doctor.answer_of", lambda endpoint: 200)

    found = results(examine(str(folder), "cpu", Notes()))

    names = ["versions", "device", "kernels", "cache", "hub", "model"]
    assert [*found] == [*names, "revert", "replay", "noise", "again", "batch size", "threads"]
    assert set(found.values()) <= {OK, NOTE}


def test_exactness_holds_and_ends_at_the_steps_that_were_made(loaded):
    base = a_base(loaded)

    assert results(exactness(base)) == {"revert": OK, "replay": OK, "noise": OK}
    assert base.drift.steps == 3


def test_passes_that_do_not_keep_their_bits_are_found(loaded):
    base = a_base(loaded)
    base.weights.kernels = Unsteady()

    checks = list(exactness(base))

    assert results(checks) == {"revert": FAILED, "replay": FAILED, "noise": FAILED}
    assert "cannot be trusted to the bit" in checks[0].hint


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("again", lambda calls, rows: calls),
        ("batch size", lambda calls, rows: rows),
        ("threads", lambda calls, rows: torch.get_num_threads()),
    ],
)
def test_what_changes_answers_is_found(what, other, loaded):
    calls = count()

    def bend(module, inputs, logits):
        tokens = logits.shape[-1]
        return logits + 100 * torch.eye(tokens)[other(next(calls), len(logits)) % tokens]

    loaded.model.lm_head.register_forward_hook(bend)
    threads = torch.get_num_threads()

    found = results(determinism(loaded))

    expected = {"again": FAILED, "batch size": NOTE, "threads": NOTE}
    assert found[what] == expected[what]
    if what != "again":
        assert {name: one for name, one in found.items() if name != what}.items() <= {
            "again": OK,
            "batch size": OK,
            "threads": OK,
        }.items()
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("answer", "result", "said"),
    [
        ("no route to it", NOTE, "is not reached: no route to it"),
        (503, NOTE, "is not reached: 503"),
        (200, OK, "answers, with"),
        (401, OK, "answers, with"),
    ],
)
def test_a_hub_that_is_not_there_is_a_note(answer, result, said, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("esft.bench.doctor.answer_of", lambda endpoint: answer)

    check = hub_check()

    assert check.result == result
    assert said in check.text


def test_a_cache_that_cannot_be_written_fails(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr("esft.bench.doctor.answer_of", lambda endpoint: 200)

    (cache,) = (check for check in examine(str(folder), "cpu", Notes()) if check.what == "cache")

    assert cache.result == FAILED
    assert "ESFT_CACHE_DIR" in cache.hint
