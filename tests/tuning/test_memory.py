"""What memory a run takes by part, and where base weights and drift lie so that it fits."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_llama
from tiny_runs import Notes, a_recipe, info_of, never

from esft.engine import Drift, Weights
from esft.engine.kept import KINDS, kept_bytes
from esft.models.shape import published_shapes, shape_of
from esft.recipe.settings import Anchor
from esft.recipe.toml import load_recipe
from esft.rollout.logprobs import Continuation
from esft.tuning import session
from esft.tuning.memory import (
    Batch,
    Room,
    batch_bytes,
    batches_of,
    choices,
    disk_bytes,
    memory_of,
    placed,
    resized,
)
from esft.tuning.start import resume_tuning, run_tuning

SHAPE = published_shapes()["Qwen2.5-1.5B"]
BATCH = Batch(sequences=16, tokens=200, answer=100)
PLENTY = Room(device=10**13, host=10**13)


def taken(device, **anchor):
    return memory_of(SHAPE, SHAPE.numel, Anchor(**anchor), device, [BATCH])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_base_and_drift_take_what_the_engine_takes(kind):
    model = tiny_llama(dtype=torch.bfloat16)
    weights = Weights(model)
    drift = Drift(weights, store="cpu", dtype=kind)

    anchor = Anchor(store="cpu", drift=kind, drift_store="cpu")
    memory = memory_of(shape_of(model), weights.numel, anchor, "cpu", [])

    assert memory.device["weights"] == weights.nbytes
    kept = memory.device["base weights"] + memory.device["drift"]
    assert kept == pytest.approx(drift.nbytes, rel=0.01)  # int8 scales of a last block


@pytest.mark.parametrize("kind", KINDS)
def test_an_anchor_that_moves_takes_a_second_drift_in_memory_and_in_each_snapshot(kind):
    model = tiny_llama(dtype=torch.bfloat16)
    shape, still = shape_of(model), Anchor(store="cpu", drift=kind, drift_store="cpu")
    moves = replace(still, move="ema")
    drift = Drift(Weights(model), store="cpu", dtype=kind, moving=True)

    memory = memory_of(shape, shape.numel, moves, "cpu", [])

    kept = sum(memory.device[part] for part in ("base weights", "drift", "moving anchor"))
    assert kept == pytest.approx(drift.nbytes, rel=0.01)
    on_disk = [disk_bytes(shape, shape.numel, one, False) for one in (moves, still)]
    assert on_disk[0] == 2 * on_disk[1]


def test_a_log_is_kept_just_where_base_or_drift_are_not_on_the_device():
    logged = {
        (store, drift_store): "log" in taken("cuda", store=store, drift_store=drift_store).device
        for store in ("device", "cpu", "disk")
        for drift_store in ("device", "cpu")
    }

    assert [places for places, is_logged in logged.items() if not is_logged] == [
        ("device", "device")
    ]
    assert taken("cuda", store="cpu", drift_store="cpu").device["log"] == int(0.1 * SHAPE.nbytes)


def test_on_a_cpu_and_where_memory_is_shared_all_of_it_is_the_devices():
    for device in ("cpu", "mps"):
        assert taken(device, store="cpu", drift_store="cpu").host == {}
    host = taken("cuda", store="cpu", drift_store="cpu").host
    assert set(host) == {"base weights", "drift", "program"}
    assert set(taken("cuda", store="disk", drift_store="cpu").host) == {"drift", "program"}


def test_scratch_and_batch_take_turns():
    memory = taken("cuda", store="device", drift_store="device")

    assert memory.on_device == sum(memory.device.values()) + max(memory.passing.values())


@pytest.mark.parametrize("longer", ["sequences", "tokens", "answer"])
def test_a_batch_takes_more_where_there_is_more_of_it(longer):
    more = replace(BATCH, **{longer: 8 * getattr(BATCH, longer)})

    assert batch_bytes(SHAPE, more) > batch_bytes(SHAPE, BATCH)
    assert resized(replace(BATCH, targets=160), 8) == Batch(
        sequences=8, tokens=200, answer=100, targets=80
    )


@pytest.mark.parametrize(
    ("device", "stores"), [("cuda", ["device", "cpu", "disk"]), ("cpu", ["cpu", "disk"])]
)
def test_auto_takes_the_fastest_place_that_fits_and_the_smallest_where_none_does(device, stores):
    rest = SHAPE, SHAPE.numel, device, [BATCH]
    listed = {one.store: taken for one, taken in choices(Anchor(), *rest, PLENTY)}
    rooms = [PLENTY]
    for store in stores:  # just too little for it
        memory = listed[store]
        on_host = memory.on_host if store != "device" else 0
        room = Room(device=memory.on_device, host=on_host or rooms[-1].host)
        rooms.append(Room(device=room.device, host=min(room.host, rooms[-1].host)))

    chosen = [placed(Anchor(drift="int8"), *rest, room).store for room in rooms]

    assert chosen == [*stores, stores[-1]]
    assert placed(Anchor(), *rest, PLENTY).drift_store == stores[0]
    assert placed(Anchor(store="disk"), *rest, PLENTY).store == "disk"


def test_a_run_records_the_place_it_chose_and_chooses_anew_on_resume(tmp_path, monkeypatch):
    recipe = a_recipe(tmp_path, steps=3)
    notes = Notes()
    run_tuning(recipe, notes, lambda: True)
    first = info_of(tmp_path / "run")["settings"]
    monkeypatch.setattr(session, "room_on", lambda device: Room(device=1000, host=1000))
    resume_tuning(tmp_path / "run", notes, never)
    then = info_of(tmp_path / "run")["settings"]
    monkeypatch.undo()
    unbroken = replace(recipe, run=replace(recipe.run, dir=str(tmp_path / "unbroken")))
    run_tuning(unbroken, Notes(), never)

    assert load_recipe(str(tmp_path / "run" / "recipe.toml"), {}).anchor.store == "auto"
    assert [one["anchor.store"] for one in (first, then)] == ["cpu", "disk"]
    assert [one["anchor.drift_store"] for one in (first, then)] == ["cpu", "cpu"]
    told = [dict(lines)["exact"] for lines in notes.plans if len(lines) > 1]  # not the signal
    assert told[0].endswith("base weights copied on the host")
    assert told[1].endswith("model.safetensors, since memory for a copy is short")
    assert any("may not fit into memory" in notice for notice in notes.notices)
    models = [tmp_path / run / "model" / "model.safetensors" for run in ("run", "unbroken")]
    assert models[0].read_bytes() == models[1].read_bytes()
    assert kept_bytes("int8", 257) == 257 + 2 * 4


def test_batches_are_those_that_rows_are_cut_into_where_much_would_be_padding():
    lengths = [10, 10, 30, 30, 31]
    rows = [
        SimpleNamespace(prompts=(), options=(), references=[Continuation((1,) * n, (1, 1))])
        for n in lengths
    ]

    batches = list(batches_of(None, rows, 4))

    found = [(one.sequences, one.tokens, one.targets) for one in batches]
    assert found == [(3, 31, 6), (1, 10, 2), (1, 10, 2)]
