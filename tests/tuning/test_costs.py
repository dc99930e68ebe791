"""What a run takes, told before it starts."""

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_llama
from tiny_runs import Notes, a_recipe, write_arc

from esft.errors import RunError
from esft.models.shape import published_shapes
from esft.recipe.settings import Anchor, Run, TaskSettings
from esft.rollout.batches import Batches
from esft.tuning import costs
from esft.tuning.calibrate import EXCHANGE_S, calibrate, energy_since
from esft.tuning.costs import ASSUMED, CARDS, check_run, fit_table, plan_run, what_fits
from esft.tuning.memory import Room, memory_of, placed, resized
from esft.tuning.session import open_session


@pytest.mark.parametrize("task", ["conciseness", "arc-easy", "copy-letters"])
def test_a_plan_without_weights_says_what_the_run_finds_with_them(task, tmp_path):
    recipe = a_recipe(tmp_path, model=tiny_llama(dtype=torch.bfloat16))
    data = None if task != "arc-easy" else str(write_arc(tmp_path / "data"))
    named = TaskSettings(name=task, train=3, holdout=4, max_new_tokens=6, data_dir=data)
    recipe = replace(recipe, task=named)

    planned = plan_run(recipe)

    session = open_session(recipe)
    assert planned.memory == session.memory
    assert planned.batch in session.batches
    assert planned.tuned == session.base.weights.numel
    assert (planned.store, planned.fits, planned.changes) == ("cpu", True, ())
    lean = plan_run(replace(recipe, run=Run(keep_model=False)))
    assert planned.disk.run - lean.disk.run == session.base.weights.nbytes
    assert planned.rows == "of its rows"


def test_rows_that_are_not_there_are_assumed_and_that_is_said(tmp_path):
    recipe = a_recipe(tmp_path)
    task = TaskSettings(name="arc-easy", data_dir=str(tmp_path / "nowhere"), batch=3)

    planned = plan_run(replace(recipe, task=task))

    assert planned.batch == resized(ASSUMED, 3)
    assert planned.rows.startswith("assumed, ")
    assert "nowhere" in planned.rows


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", ["Qwen2.5-3B", "Llama-3.1-8B", "Qwen3-14B"])
def test_what_is_said_to_fit_fits_and_less_change_does_not(name, card):
    shape = published_shapes()[name]
    rest = shape.numel, "cuda", [resized(ASSUMED, 64)]
    room = Room(device=card * 10**9, host=shape.numel * 3)
    anchor = placed(Anchor(drift="float32"), shape, *rest, room)

    changes = what_fits(anchor, shape, *rest, room)

    options = dict(change.removeprefix("--set ").split("=") for change in changes or ())
    batch = resized(ASSUMED, int(options.pop("task.batch", 64)))
    changed = {key.removeprefix("anchor."): value for key, value in options.items()}
    changed = replace(anchor, **changed, drift_store="cpu")
    fits = memory_of(shape, shape.numel, changed, "cuda", [batch]).fits(room)
    assert fits == (changes is not None)
    assert changes is None or shape.nbytes < room.device
    for size in (batch.sequences * 2,) if "task.batch" in str(changes) else ():
        larger = memory_of(shape, shape.numel, changed, "cuda", [resized(ASSUMED, size)])
        assert not larger.fits(room)


def test_the_table_has_all_models_on_all_cards_and_more_fits_on_larger_ones():
    fits = fit_table()

    assert len(fits) == len(published_shapes()) * len(CARDS)
    for name in published_shapes():
        batches = [fit.batch or 0 for fit in fits if fit.model == name]
        assert batches == sorted(batches)
    assert max(fit.batch or 0 for fit in fits) == Batches(None).size


def test_a_dry_run_tells_the_plan_and_leaves_nothing(tmp_path):
    recipe, notes = a_recipe(tmp_path), Notes()
    before = sorted(tmp_path.rglob("*"))

    planned = check_run(recipe, notes)

    assert planned.fits
    labels = [label for label, _ in notes.plans[0]]
    assert labels == ["model", "task", "search", "decay"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_refuses_what_a_run_refuses(tmp_path, monkeypatch):
    recipe = a_recipe(tmp_path)
    monkeypatch.setattr("esft.runs.folder.free_on_disk", lambda path: 1000)
    with pytest.raises(RunError, match="0 MB free, expected"):
        check_run(recipe, Notes())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").write_text("")
    with pytest.raises(RunError, match=r"run folder .* exists"):
        check_run(recipe, Notes())


@pytest.mark.parametrize(("ranks", "share", "rows"), [(1, 6, 70), (4, 2, 64)])
def test_a_calibration_adds_up_what_it_timed(tmp_path, ranks, share, rows):
    recipe = a_recipe(tmp_path, steps=10, population=6, task={"holdout": 70, "reward": "logprob"})
    recipe = replace(recipe, task=replace(recipe.task, name="subtract-two-digits"))
    recipe = replace(recipe, prior=replace(recipe.prior, every=2))

    times = calibrate(recipe, Notes(), ranks)

    assert 0 <= times.engine <= times.member  # 0 where a machine with other work hides it
    assert times.member > 0
    assert times.tokens_a_second > 0
    assert times.share == share
    exchange = 0 if ranks == 1 else EXCHANGE_S
    assert times.step == pytest.approx(share * times.member + times.update + exchange)
    # Before the first step, after the last, and after steps 2, 4, 6 and 8.
    assert times.run == pytest.approx(10 * times.step + 6 * times.evaluation * rows / 70)
    assert not (tmp_path / "run").exists()


def test_energy_is_what_the_counters_of_all_packages_count_also_past_their_end(tmp_path):
    for number, count in enumerate((100, 900)):
        package = tmp_path / f"intel-rapl:{number}"
        package.mkdir()
        (package / "energy_uj").write_text(str(count))
        (package / "max_energy_range_uj").write_text("1000")
    took = energy_since(torch.device("cpu"), tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("350")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("50")

    assert took() == pytest.approx((250 + 150) / 1e6)
    assert energy_since(torch.device("cpu"), tmp_path / "nowhere")() is None


def test_half_precision_that_a_cpu_emulates_is_said_where_float32_fits(tmp_path, monkeypatch):
    monkeypatch.setattr("esft.tuning.plan.emulates", lambda device, dtype: dtype.itemsize == 2)
    half = a_recipe(tmp_path, model=tiny_llama(dtype=torch.bfloat16))
    whole = replace(half, model=replace(half.model, dtype="float32"))

    assert "--dtype float32" in plan_run(half).slow
    assert plan_run(whole).slow is None
    monkeypatch.setattr(costs, "room_on", lambda device: Room(device=1000, host=1000))
    assert plan_run(half).slow is None
