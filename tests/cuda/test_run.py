"""Runs and `esft bench` on a device."""

import pytest
from command import esft
from safetensors.torch import load_file
from tiny_runs import Notes, jsonl, never

from esft.recipe.settings import Anchor, Model, Recipe, Run, Search, TaskSettings
from esft.tuning.rebuild import RebuildOptions, bring_to, find_source, open_at_base
from esft.tuning.start import run_tuning

STORES = [("disk", "cpu"), ("cpu", "cpu"), ("device", "device")]


def a_run(device, folder, store="device", drift_store="device", **changes):
    """Tune the embedded model for three steps; return the run's folder."""
    task = {"name": "subtract-two-digits", "reward": "logprob", "train": 48, "holdout": 20}
    recipe = Recipe(
        model=Model(id="embedded", device=str(device)),
        task=TaskSettings(**(task | changes)),
        search=Search(seed=1, steps=3, population=8, sigma=0.005, alpha=0.07, antithetic=True),
        anchor=Anchor(awd=1.4286, norm="l2", store=store, drift_store=drift_store),
        run=Run(dir=str(folder)),
    )
    run_tuning(recipe, Notes(), never)
    return folder


def model_of(run):
    return load_file(run / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def run(device, tmp_path_factory):
    return a_run(device, tmp_path_factory.mktemp("cuda") / "run")


def test_the_journal_replays_on_the_cpu_to_the_weights_within_rounding(run, note):
    source = find_source(str(run))
    base = open_at_base(source, Notes(), RebuildOptions(device="cpu"))
    theta_0 = {name: base.weights.flat(name).clone() for name in base.weights.names}

    bring_to(base, source, 3, Notes(), from_base=True)

    tuned, furthest = model_of(run), 0.0
    for name, start in theta_0.items():
        here, there = tuned[name].view(-1), base.weights.flat(name)
        drift = (there - start).abs().max()
        assert drift > 0, name
        furthest = max(furthest, float((here - there).abs().max() / drift))
    note(f"weights differ by {furthest:.2g} of the largest drift of their tensor at most")
    # A sum that rounds otherwise can turn what chance rounds: by one step of float16.
    assert furthest <= 2**-10


def test_the_same_seed_makes_the_same_bits_again(run, device, tmp_path):
    again = a_run(device, tmp_path / "run")

    assert (again / "journal.jsonl").read_bytes() == (run / "journal.jsonl").read_bytes()
    for name, tensor in model_of(again).items():
        assert tensor.equal(model_of(run)[name]), name


@pytest.mark.parametrize(("store", "drift_store"), STORES)
def test_where_things_lie_changes_no_bit_of_a_run(run, device, tmp_path, store, drift_store):
    other = a_run(device, tmp_path / "run", store, drift_store)

    assert jsonl(other / "journal.jsonl")[1:] == jsonl(run / "journal.jsonl")[1:]
    for name, tensor in model_of(other).items():
        assert tensor.equal(model_of(run)[name]), name


def test_answers_are_generated_and_rewarded(device, tmp_path):
    run = a_run(device, tmp_path / "run", name="reverse-letters", reward=None, scoring="generate")

    base = jsonl(run / "evals.jsonl")[0]
    assert (base["step"], base["accuracy"]) == (0, 1.0)  # as the card of the embedded model says


def test_bench_measures_here(device, note):
    small = ["--rounds", "1", "--model", "embedded"] if device.type == "cpu" else []
    done = esft("bench", "--device", device, *small)
    note(done.stdout)

    assert done.exit_code == 0, done.stderr
    for heading in ("engine: ", "rollout: ", "step: "):
        assert heading in done.stdout
