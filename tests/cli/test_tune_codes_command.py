"""Codes from the command line: `esft tune`, `plan`, `verify`, `replay` and `export`."""

import json

import pytest
from command import esft
from gguf import GGMLQuantizationType
from tiny_models import tiny_llama, write_gguf

from esft.engine.weights import identity
from esft.models.load import load_model
from esft.recipe.search import CODED_SCALES
from esft.recipe.toml import load_recipe

LESS = ("--set", "task.train=8", "--set", "task.holdout=6", "--set", "task.rows_per_step=4")
LESS += ("--set", "prior.tasks=[]", "--population", 2, "--steps", 2, "--awd", 0.01)
LESS += ("--device", "cpu", "--dtype", "float32")


@pytest.fixture(scope="module", params=["int8", "int4"])
def quickstart(request, tmp_path_factory):
    run = tmp_path_factory.mktemp("quickstart") / "run"
    done = esft("tune", "quickstart", "--weights", request.param, *LESS, "--run-dir", run)
    return request.param, run, done


def test_the_quickstart_tunes_codes_with_the_scales_of_codes(quickstart):
    weights, run, done = quickstart

    assert done.exit_code == 0, done.stderr
    recipe = load_recipe(str(run / "recipe.toml"), {})
    assert recipe.model.weights == weights
    assert (recipe.search.sigma, recipe.search.alpha) == CODED_SCALES[weights]
    assert "codes tuned, computing in float32" in done.stderr
    assert " of the codes" in done.stderr


def test_with_noise_of_low_rank_it_takes_the_scales_of_floats_and_says_so(tmp_path):
    options = ("tune", "quickstart", "--weights", "int4", "--noise", "lowrank", *LESS)

    planned = esft(*options, "--dry-run", width=200)
    done = esft(*options, "--run-dir", tmp_path / "run", width=200)

    assert planned.exit_code == done.exit_code == 0, done.stderr
    for told in (planned.stdout + planned.stderr, done.stderr):
        assert "sigma 0.005, alpha 0.07" in told
        assert "steps of the grid" not in told
    assert "told once the codes are read" in planned.stdout + planned.stderr
    assert "a member changes no code" in done.stderr
    assert "raise --alpha" not in done.stderr
    resumed, verified = esft("resume", tmp_path / "run"), esft("verify", tmp_path / "run")
    assert resumed.exit_code == verified.exit_code == 0, verified.stderr
    small = esft(*options, "--alpha", 1e-4, "--run-dir", tmp_path / "small", width=200)
    assert "of the codes, expected 1% or more: raise --alpha" in small.stderr


def test_it_is_resumed_verified_replayed_and_exported(quickstart, tmp_path):
    _, run, _ = quickstart
    out, folder = tmp_path / "replayed", tmp_path / "exported"

    verified = esft("verify", run)
    replayed = esft("replay", run, "--out", out)
    exported = esft("export", run, "--out", folder, "--from-base")
    resumed = esft("resume", run)

    for done in (verified, replayed, exported, resumed):
        assert done.exit_code == 0, done.stderr
    recorded = json.loads((run / "run.json").read_text())["saved"]["weights"]
    assert identity(load_model(str(out)).model) == recorded
    assert identity(load_model(str(folder)).model) == recorded
    assert f"sha256 {recorded}" in exported.stdout


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_plan_of_codes_takes_less_for_the_weights_than_one_of_floats(weights):
    options = ("plan", "quickstart", "--dtype", "float32", "--device", "cpu", "--json")

    floats = esft(*options)
    codes = esft(*options, "--weights", weights, "--awd", 0.01)

    assert floats.exit_code == codes.exit_code == 0, codes.stderr
    sizes = [json.loads(done.stdout)[0]["memory"]["device"]["weights"] for done in (floats, codes)]
    assert sizes[1] < 0.5 * sizes[0]


def test_a_plan_of_a_gguf_file_reads_its_codes(tmp_path):
    file = write_gguf(tmp_path / "t.gguf", tiny_llama(), kind=GGMLQuantizationType.Q8_0)

    done = esft("plan", "--model", file, "--weights", "codes", "--device", "cpu", width=200)

    assert done.exit_code == 0, done.stderr
    of_layers = sum(one.numel() for name, one in tiny_llama().named_parameters() if "proj" in name)
    assert f"{of_layers:,} of them tuned" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--weights", "int3"), 2, 'weights is "int3", expected "float" or "int8" or'),
        (
            ("--weights", "int8", "--noise", "lowrank", "--set", "anchor.drift=replay", "--awd", 0),
            2,
            "only whole steps can be replayed, and noise is lowrank",
        ),
        (("--weights", "codes"), 1, "has floats, expected a quantized checkpoint for --weights"),
    ],
)
def test_what_codes_cannot_do_is_said_before_there_is_a_run(options, code, said, tmp_path):
    done = esft("tune", "quickstart", *LESS, *options, "--run-dir", tmp_path / "run", width=300)

    assert done.exit_code == code
    assert said in done.stderr
    assert "Hint: " in done.stderr or "Try" in done.stderr
    assert not (tmp_path / "run").exists()
