"""A run killed anywhere, or out of room, and resumed ends with the bits of one left alone."""

import json
import os
import random
import signal
import sys
from pathlib import Path

import pytest
from kills import (
    PLACES,
    coded_recipe,
    embedded_recipe,
    in_process,
    killed_and_resumed,
    resume,
    tune,
    tune_until_full,
    what_is_left,
)

from esft.runs.names import is_locked, locked

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="kills processes and limits their files as Linux does"
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a run leaves that nothing disturbs, and how often it passes each place."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    code, passed = in_process(tune, embedded_recipe(path))
    assert code == 0
    return what_is_left(path), passed


@pytest.mark.parametrize("place", PLACES)
def test_a_run_killed_anywhere_and_resumed_is_the_one_never_killed(tmp_path, undisturbed, place):
    expected, passed = undisturbed
    # Another moment with every place, the same in every session.
    nth = random.Random(place).randrange(passed[place])

    codes = killed_and_resumed(tmp_path / "run", [(place, nth)])

    assert codes == [-9, 0]
    assert what_is_left(tmp_path / "run") == expected


def test_a_run_killed_twice_the_second_time_while_it_is_resumed(tmp_path, undisturbed):
    expected, _ = undisturbed

    codes = killed_and_resumed(tmp_path / "run", [("journal", 4), ("journal", 1)])

    assert codes == [-9, -9, 0]
    assert what_is_left(tmp_path / "run") == expected


@pytest.fixture(scope="module", params=["int8", "int4", "replay", "int4 lowrank"])
def undisturbed_codes(request, tmp_path_factory):
    """The same of a run that tunes codes, and which."""
    path = tmp_path_factory.mktemp("codes") / "run"
    code, passed = in_process(tune, coded_recipe(path, request.param))
    assert code == 0
    lines = (path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["changed"] > 0 for line in lines] == [True] * 3
    return what_is_left(path), passed, request.param


@pytest.mark.parametrize("place", ["revert", "step", "journal", "snapshot", "model"])
def test_a_run_of_codes_killed_and_resumed_is_the_one_never_killed(
    tmp_path, undisturbed_codes, place
):
    expected, passed, weights = undisturbed_codes
    if not passed[place]:
        pytest.skip("no member changes a weight that would be put back")
    nth = random.Random(place + weights).randrange(passed[place])

    codes = killed_and_resumed(tmp_path / "run", [(place, nth)], weights=weights)

    assert codes == [-9, 0]
    assert what_is_left(tmp_path / "run") == expected


@pytest.mark.parametrize(("place", "nth"), [("journal", 3), ("snapshot", 1)])
def test_a_full_disk_is_said_and_once_there_is_room_the_run_goes_on(
    tmp_path, undisturbed, place, nth
):
    expected, _ = undisturbed

    code, error = in_process(tune_until_full, embedded_recipe(tmp_path / "run"), place, nth)

    assert code == 0  # the error came back: the process did not die of it
    kind, message, hint = error
    assert kind == "RunError"
    assert (
        f"{'journal.jsonl' if place == 'journal' else 'step-000004.safetensors'} cannot" in message
    )
    assert hint == "make room on the disk"
    assert in_process(resume, tmp_path / "run") == (0, [])
    assert what_is_left(tmp_path / "run") == expected


def die_holding(path):
    with locked(Path(path)):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_leaves_no_lock(tmp_path):
    (tmp_path / "run").mkdir()

    code, _ = in_process(die_holding, tmp_path / "run")

    assert code == -9
    assert (tmp_path / "run" / ".lock").exists()
    assert not is_locked(tmp_path / "run")
