"""`esft doctor`, as it is typed."""

import json

import pytest
from command import esft


@pytest.fixture(autouse=True)
def _reached(monkeypatch):
    monkeypatch.setattr("esft.bench.doctor.answer_of", lambda address: 200)


def test_a_page_says_how_the_machine_is():
    done = esft("doctor", "--device", "cpu")

    assert done.exit_code == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("ok     versions       esft ")
    assert last == "nothing is broken"
    assert len(done.stdout.splitlines()) < 40
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_what_is_broken_is_said_with_what_to_do_and_exit_code_1(tmp_path):
    told = esft("doctor", "--model", tmp_path / "none")
    record = json.loads(esft("doctor", "--model", tmp_path / "none", "--json").stdout)

    assert told.exit_code == 1
    assert told.stdout.splitlines()[-1] == "broken: model"
    assert not record["ok"]
    model = record["checks"][-1]
    assert (model["what"], model["result"]) == ("model", "failed")
    assert model["hint"] is not None
