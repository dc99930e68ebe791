"""Snapshots: whole or not at all, and known to be good before they are used."""

import pytest
import torch

from esft.engine.drift_state import DriftState
from esft.errors import SnapshotError
from esft.runs.snapshots import Snapshots


def a_state(step, kind="float16"):
    values = torch.arange(5, dtype=getattr(torch, kind)) * step
    tensors = {"w": values}
    if kind == "int8":
        tensors["w:scales"] = torch.tensor([0.25])
    return DriftState(
        steps=step,
        sum_of_squares=0.1 * step,
        kind=kind,
        tensors=tensors,
        figures={"w": {"exponent": 3, "largest": 0.1}},
    )


def written(folder, *steps, kind="float16"):
    snapshots = Snapshots(folder / "drift")
    for step in steps:
        snapshots.write(a_state(step, kind), f"checksum {step}")
    return snapshots


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_what_was_written_comes_back(tmp_path, kind):
    state = written(tmp_path, 7, kind=kind).read(7, "checksum 7")

    expected = a_state(7, kind)
    assert (state.steps, state.sum_of_squares, state.kind) == (7, 0.1 * 7, kind)
    assert state.figures == expected.figures
    assert state.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert state.tensors[name].equal(tensor)
        assert state.tensors[name].dtype == tensor.dtype


def test_any_flipped_byte_or_cut_is_found(tmp_path):
    snapshots = written(tmp_path, 7)
    whole = snapshots.path(7).read_bytes()

    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 0x04
        snapshots.path(7).write_bytes(data)
        with pytest.raises(SnapshotError):
            snapshots.read(7, "checksum 7")
    for cut in range(0, len(whole), 9):
        snapshots.path(7).write_bytes(whole[:cut])
        with pytest.raises(SnapshotError, match="is damaged"):
            snapshots.read(7, "checksum 7")


def test_one_of_another_journal_or_named_as_another_step_is_refused(tmp_path):
    snapshots = written(tmp_path, 7)
    with pytest.raises(SnapshotError, match="belongs to another journal"):
        snapshots.read(7, "checksum 8")
    snapshots.path(7).rename(snapshots.path(8))

    with pytest.raises(SnapshotError, match="is of step 7"):
        snapshots.read(8, "checksum 7")


@pytest.mark.parametrize(("best", "left"), [(None, [50, 40]), (50, [50, 40]), (10, [50, 40, 10])])
def test_the_newest_two_and_the_best_are_kept(tmp_path, best, left):
    snapshots = written(tmp_path, 10, 20, 30, 40, 50)

    snapshots.prune({best})

    assert snapshots.steps() == left


def test_those_of_later_steps_can_be_dropped_until_there_is_none(tmp_path):
    snapshots = written(tmp_path, 10, 20, 30)
    (tmp_path / "drift" / ".step-000003.safetensors.1234abcd.partial").write_text("")

    snapshots.drop_after(20)

    assert snapshots.steps() == [20, 10]
    assert Snapshots(tmp_path / "none").steps() == []
