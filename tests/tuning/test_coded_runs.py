"""Runs that tune codes are recorded, resumed, verified and rebuilt like those of floats."""

import json
import shutil
from dataclasses import replace

import pytest
from gguf import GGMLQuantizationType
from packed_models import GPTQ, INT8, write_packed
from tiny_models import tiny_llama, write_gguf, write_model
from tiny_runs import Notes, a_recipe, info_of, jsonl, never

from esft.engine.batched import vectors_numel
from esft.engine.coded import coded_of
from esft.engine.measures import law_of_weights
from esft.engine.noise import CODES_VERSION, LOW_RANK_CODES_VERSION
from esft.engine.weights import identity, identity_as_saved
from esft.errors import RunError
from esft.export.folder import export
from esft.export.journal import export_journal
from esft.models.load import load_model
from esft.models.save import save_model
from esft.recipe.settings import Run
from esft.tuning.rebuild import RebuildOptions, find_source, rebuild
from esft.tuning.session import open_work
from esft.tuning.start import resume_tuning, run_tuning
from esft.tuning.verify import checks_of

NORM = "model.layers.0.input_layernorm.weight"
SCALES = {"sigma": 0.3, "alpha": 1.5}
"""Steps of the grid: large, so that three steps of few members change many codes."""


def a_coded_recipe(folder, weights="int8", name="run", *, of_model=None, **settings):
    """Return a recipe that tunes codes of a tiny model in `folder` for three steps."""
    task = {"train": 4, "holdout": 3, "max_new_tokens": 3, "reward": "logprob"}
    recipe = a_recipe(folder, **({"task": task, "population": 2} | SCALES | settings))
    changed = {"weights": weights, "dtype": "float32"} | (of_model or {})
    return replace(
        recipe,
        model=replace(recipe.model, **changed),
        task=replace(recipe.task, name="subtract-two-digits"),
        run=Run(dir=str(folder / name), snapshot_every=2),
    )


def tuned(recipe, done=3):
    """Tune for so many steps; return the folder of the run and what it told."""
    notes = Notes()
    run_tuning(recipe, notes, lambda: len(notes.steps) >= done)
    return find_source(recipe.run.dir).run.path, notes


def model_in(run):
    return (run / "model" / "model.safetensors").read_bytes()


def rebuilt(name, at="last", **options):
    return rebuild(find_source(str(name)), at, Notes(), RebuildOptions(**options))


@pytest.fixture(scope="module", params=["int8", "int4"])
def run(request, tmp_path_factory):
    """A finished run, and what it told."""
    return tuned(a_coded_recipe(tmp_path_factory.mktemp("codes"), request.param))


LOW_RANK = {"noise": "lowrank", "rank": 2, "sigma": 0.01, "alpha": 0.02}


@pytest.fixture(scope="module", params=["int8", "int4"])
def low_rank_run(request, tmp_path_factory):
    """A finished run with noise of low rank, and what it told."""
    return tuned(a_coded_recipe(tmp_path_factory.mktemp("codes"), request.param, **LOW_RANK))


def test_the_journal_says_which_weights_they_are_and_how_their_noise_is_drawn(run):
    path, _ = run
    weights = find_source(str(path)).recipe.model.weights
    base = load_model(str(path.parent / "base"), weights=weights, dtype="float32").model

    header = jsonl(path / "journal.jsonl")[0]

    assert (header["weights"], header["noise_version"]) == (weights, CODES_VERSION)
    assert CODES_VERSION == 3
    assert header["base"] == identity(base)
    codes = [(one.codes(), one.grid) for one in coded_of(base).values()]
    ends = sum(int(((c == g.low) | (c == g.high)).sum()) for c, g in codes)
    assert header["at_bounds"] == pytest.approx(ends / sum(c.numel() for c, _ in codes))
    assert header["at_bounds"] > 0
    assert info_of(path)["noise_version"] == CODES_VERSION
    assert info_of(path)["model"]["tuned_parameters"] == sum(c.numel() for c, _ in codes)


def test_every_step_records_the_share_of_codes_that_it_changed(run):
    path, notes = run
    before, last = rebuilt(path, "2"), rebuilt(path)

    lines = jsonl(path / "metrics.jsonl")

    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(0 < line["changed"] < 1 for line in lines)
    pairs = list(
        zip(
            coded_of(before.base.loaded.model).values(),
            coded_of(last.base.loaded.model).values(),
            strict=True,
        )
    )
    differ = sum(int((one.codes() != other.codes()).sum()) for one, other in pairs)
    assert lines[-1]["changed"] == pytest.approx(differ / last.base.weights.numel)
    assert [step.changed for step in notes.steps] == [line["changed"] for line in lines]


def test_what_is_told_before_the_first_step_is_in_steps_of_the_grid(run):
    _, notes = run

    told = [text for _, text in notes.plans[0]]

    assert any("codes tuned, computing in float32" in text for text in told)
    assert any("sigma 0.3 steps of the grid, alpha 1.5" in text for text in told)
    assert any(text.startswith("a member changes ") for text in told)
    assert any("levels" in text and "bits a weight" in text for text in told)


def test_every_check_of_a_run_of_codes_is_ok(run):
    path, _ = run

    checks = list(checks_of(path, Notes(), RebuildOptions(from_base=True)))

    assert [check for check in checks if check.result != "ok"] == []
    assert len(checks) == 6


def test_floats_that_are_replayed_have_the_recorded_identity(run, tmp_path):
    path, _ = run
    made = rebuilt(path, from_base=True)

    save_model(made.base.loaded, tmp_path / "out")

    assert made.proven
    assert made.weights == info_of(path)["saved"]["weights"]
    assert identity_as_saved(made.base.loaded.model) == made.weights
    assert identity(load_model(str(tmp_path / "out")).model) == made.weights
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == model_in(path)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config


@pytest.mark.parametrize(("at", "from_base"), [("last", False), ("2", True)])
def test_a_step_is_exported_to_a_folder_of_floats(run, at, from_base, tmp_path):
    path, _ = run
    options = RebuildOptions(from_base=from_base)

    done = export(find_source(str(path)), at, tmp_path / "out", Notes(), options)

    assert done.weights == rebuilt(path, at).weights
    assert identity(load_model(str(tmp_path / "out")).model) == done.weights
    assert done.conversion is None


def test_a_step_is_converted_and_compared_where_another_dtype_is_asked_for(run, tmp_path):
    path, _ = run
    source, options = find_source(str(path)), RebuildOptions()

    done = export(source, "last", tmp_path / "out", Notes(), options, "bfloat16")

    again = load_model(str(tmp_path / "out"), device="cpu")
    assert (done.dtype, str(again.dtype)) == ("bfloat16", "torch.bfloat16")
    assert identity(again.model) == done.weights != done.tuned_weights
    assert 0 < done.conversion.largest_difference < 0.5


def test_the_journal_alone_rebuilds_the_codes(run, tmp_path):
    path, _ = run

    export_journal(find_source(str(path)), "last", tmp_path / "t.jsonl", Notes(), RebuildOptions())

    made = rebuilt(tmp_path / "t.jsonl")
    assert made.proven
    assert made.weights == info_of(path)["saved"]["weights"]
    assert identity(made.base.loaded.model) == identity(rebuilt(path).base.loaded.model)


KEPT = [
    ("int8", {"awd": 0.02}, {}),
    ("int8", {"drift": "float16", "awd": 0.02, "norm": "l1"}, {"antithetic": True}),
    ("int4", {"drift": "int8", "awd": 0.02}, {"anneal": "linear"}),
    ("int4", {"drift": "float16", "store": "cpu"}, {"shaping": "ranks"}),
    ("int8", {"drift": "float16", "awd": 2.0}, LOW_RANK | {"antithetic": True}),
    ("int4", {"drift": "int8", "awd": 2.0, "norm": "l2"}, LOW_RANK | {"anneal": "linear"}),
]


@pytest.mark.parametrize(("weights", "anchor", "search"), KEPT)
def test_a_run_stopped_and_resumed_is_the_one_never_stopped(weights, anchor, search, tmp_path):
    rest = {"anchor": anchor, "steps": 4} | search
    whole, _ = tuned(a_coded_recipe(tmp_path, weights, "whole", **rest), 4)
    run, _ = tuned(a_coded_recipe(tmp_path, weights, "stopped", **rest), 1)
    assert (info_of(run)["state"], info_of(run)["saved"]["step"]) == ("stopped", 1)

    resume_tuning(run, Notes(), never)

    assert (run / "journal.jsonl").read_bytes() == (whole / "journal.jsonl").read_bytes()
    assert model_in(run) == model_in(whole)
    found, expected = (jsonl(one / "metrics.jsonl") for one in (run, whole))
    for key in ("changed", "drift", "forecast"):
        assert [line[key] for line in found] == [line[key] for line in expected]
    checks = checks_of(run, Notes(), RebuildOptions(from_base=True))
    assert {check.result for check in checks} == {"ok"}


def test_steps_are_made_again_where_a_snapshot_is_damaged(tmp_path):
    whole, _ = tuned(a_coded_recipe(tmp_path, name="whole"))
    run, _ = tuned(a_coded_recipe(tmp_path), 2)
    (snapshot,) = (run / "drift").iterdir()
    snapshot.write_bytes(snapshot.read_bytes()[:-3])
    notes = Notes()

    resume_tuning(run, notes, never)

    assert "is damaged" in notes.notices[0]
    assert notes.rebuilds[0][:2] == (0, 2)
    assert model_in(run) == model_in(whole)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_where_the_base_codes_are_kept_changes_no_bit(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "cache"))
    runs = {}
    for store in ("cpu", "device", "disk"):
        anchor = {"store": store, "awd": 0.02}
        runs[store], notes = tuned(a_coded_recipe(tmp_path, weights, store, anchor=anchor), 2)
        assert dict(notes.plans[0])["exact"].startswith("each trial is undone to the bit")

    journals = {store: (run / "journal.jsonl").read_bytes() for store, run in runs.items()}
    assert len(set(journals.values())) == 1
    assert len({model_in(run) for run in runs.values()}) == 1
    assert list((tmp_path / "cache").rglob("*.safetensors"))
    resume_tuning(runs["disk"], Notes(), never)
    resume_tuning(runs["cpu"], Notes(), never)
    assert model_in(runs["disk"]) == model_in(runs["cpu"])


def test_a_stopped_run_is_not_resumed_with_other_codes(tmp_path):
    run, _ = tuned(a_coded_recipe(tmp_path, "int8"), 1)
    text = (run / "recipe.toml").read_text()
    assert 'weights = "int8"' in text
    (run / "recipe.toml").write_text(text.replace('weights = "int8"', 'weights = "int4"'))

    with pytest.raises(RunError, match=r'model\.weights is "int4", the run has "int8"'):
        resume_tuning(run, Notes(), never)


def test_noise_of_low_rank_is_recorded_with_the_units_of_its_drift(low_rank_run):
    path, notes = low_rank_run
    base = rebuilt(path, "0").base

    header = jsonl(path / "journal.jsonl")[0]

    assert (header["noise_version"], header["rank"]) == (LOW_RANK_CODES_VERSION, 2)
    assert header["units"] == [list(one) for one in law_of_weights(base.weights).units]
    assert "at_bounds" not in header
    told = [text for _, text in notes.plans[0]]
    assert any("sigma 0.01, alpha 0.02" in text for text in told)
    assert any(text.startswith("a member changes no code, all steps ") for text in told)
    assert any("2 members share a batch, 8 sequences" in text for text in told)
    assert any(text.startswith("no trial changes a weight") for text in told)


def test_a_run_of_codes_with_noise_of_low_rank_changes_them_and_is_rebuilt(low_rank_run, tmp_path):
    path, _ = low_rank_run
    shutil.copy(path / "journal.jsonl", tmp_path / "journal.jsonl")

    checks = list(checks_of(path, Notes(), RebuildOptions(from_base=True)))
    alone = rebuilt(tmp_path / "journal.jsonl")

    assert [check for check in checks if check.result != "ok"] == []
    assert alone.weights == info_of(path)["saved"]["weights"]
    lines = jsonl(path / "metrics.jsonl")
    assert all(0 < line["changed"] < 1 for line in lines)
    # Few steps of two members: noise of rank 2 differs from its law by more than many do.
    assert lines[-1]["drift"] / lines[-1]["forecast"] == pytest.approx(1, rel=0.15)


def test_the_memory_of_noise_is_that_of_the_codes_alone(tmp_path):
    work = open_work(a_coded_recipe(tmp_path, "int4", **LOW_RANK), load_model)

    one = vectors_numel([one.shape for one in coded_of(work.model.model).values()], rank=2)

    assert {batch.noise for batch in work.batches} == {0, 2 * 4 * one}  # two members in float32


def test_members_in_one_batch_have_the_rewards_of_those_that_have_one_each(tmp_path):
    rewards = []
    for name, batch in (("alone", 4), ("shared", 8)):
        recipe = a_coded_recipe(tmp_path, "int4", name, **LOW_RANK)
        run, _ = tuned(replace(recipe, task=replace(recipe.task, batch=batch)), 1)
        rewards.append(find_source(str(run)).record.steps[0].rewards)

    alone, shared = rewards
    assert shared == pytest.approx(alone, rel=1e-4)
    assert abs(alone[0] - alone[1]) > 1e-3


def test_a_float_parameter_that_is_named_is_tuned_beside_the_codes(tmp_path):
    chosen = {"include": ("*.down_proj.weight", NORM)}
    run, _ = tuned(a_coded_recipe(tmp_path, of_model=chosen, sigma=0.3))
    base = rebuilt(run, "0").base.loaded.model
    shutil.copy(run / "journal.jsonl", tmp_path / "journal.jsonl")

    made = rebuilt(tmp_path / "journal.jsonl")

    assert made.weights == info_of(run)["saved"]["weights"]
    tuned_model, before = made.base.loaded.model, dict(base.named_parameters())
    changed = {name for name, one in tuned_model.named_parameters() if not one.equal(before[name])}
    assert changed == {NORM, *(f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1))}


def test_a_run_of_codes_in_a_gguf_file_is_recorded_by_that_file(tmp_path):
    file = write_gguf(tmp_path / "base.gguf", tiny_llama(), kind=GGMLQuantizationType.Q4_0)
    recipe = a_coded_recipe(tmp_path, "codes", of_model={"id": str(file)})

    run, _ = tuned(recipe)

    made = rebuilt(run, from_base=True)
    assert made.proven
    assert made.base.loaded.source == str(file)
    checks = checks_of(run, Notes(), RebuildOptions(from_base=True))
    assert {check.result for check in checks} == {"ok"}


@pytest.mark.parametrize("config", [GPTQ, INT8], ids=["gptq", "int8"])
def test_a_run_of_codes_in_a_folder_is_rebuilt_from_it(config, tmp_path):
    write_model(tmp_path / "float")
    write_packed(tmp_path / "float", tmp_path / "base", config)

    run, notes = tuned(a_coded_recipe(tmp_path, "codes"), 2)

    made = rebuilt(run, from_base=True)
    assert made.proven
    assert made.step == 2
    assert jsonl(run / "metrics.jsonl")[-1]["changed"] > 0
    saved = load_model(str(run / "model"), device="cpu")
    assert identity(saved.model) == made.weights
    assert any("levels" in text for _, text in notes.plans[0])
