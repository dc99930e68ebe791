"""`esft plan`, and `esft tune --dry-run`."""

import json
import re
from pathlib import Path

import pytest
from command import esft
from tiny_models import write_model
from tiny_runs import a_recipe

from esft.recipe.toml import dump_recipe
from esft.tuning.costs import ASSUMED

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text(dump_recipe(a_recipe(tmp_path)))
    return file


def test_several_recipes_are_planned_with_the_options_in_place_of_their_values(recipe):
    done = esft("plan", recipe, recipe, "--set", "anchor.drift=int8", "--json")

    assert done.exit_code == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert (first["recipe"], first["drift"], first["fits"]) == (str(recipe), "int8", True)
    assert len(first["choices"]) == 6
    parts = first["memory"]["device"]
    passing = first["memory"]["passing"].values()
    assert first["memory"]["on_device"] == sum(parts.values()) + max(passing)
    assert first["times"] is None
    assert {**first, "room": None, "disk": None} == {**second, "room": None, "disk": None}


def test_a_model_alone_is_planned_for_a_card_with_what_would_fit(tmp_path):
    base = write_model(tmp_path / "base")

    done = esft("plan", "--model", base, "--vram", 0.07)

    assert done.exit_code == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "on cuda of 0.07 GB" in text
    assert f"{ASSUMED.tokens} tokens and {ASSUMED.answer} to answer, assumed, no task" in text
    assert "does not fit, however it is kept" in text
    assert len(re.findall(r"^ {8}(device|cpu|disk) .*does not fit", done.stdout, re.M)) == 9
    large = esft("plan", "--model", base, "--vram", 0.09, "--set", "task.batch=4096").stdout
    assert re.search(r"does not fit; this would: --set task.batch=\d+\n", large)


def test_a_calibrated_plan_tells_times(recipe):
    done = esft("plan", recipe, "--calibrate", "--ranks", 2)

    assert done.exit_code == 0, done.stderr
    assert re.search(r"^time .* a step: .* a member \(\d+% engine\)", done.stdout, re.M)
    assert re.search(r"^speed +[\d,]+ tokens/s", done.stdout, re.M)
    assert re.search(r"^ranks +2, of 2 members at most", done.stdout, re.M)
    refused = esft("plan", recipe, "--ranks", 2)
    assert refused.exit_code == 2
    assert "--calibrate" in refused.stderr
    refused = esft("plan", "--model", "m", "--vram", 1, "--calibrate")
    assert refused.exit_code == 2
    assert "name a --task" in refused.stderr


def test_the_table_in_the_readme_is_what_the_command_prints():
    done = esft("plan", "--table")

    _, _, behind = README.partition("<!-- esft plan --table -->\n")
    table, marker, _ = behind.partition("\n<!-- end -->")
    assert marker
    assert table.strip() == done.stdout.strip()


def test_a_dry_run_of_tune_prints_the_plan_and_leaves_nothing(recipe, tmp_path):
    before = sorted(tmp_path.rglob("*"))

    done = esft("tune", recipe, "--dry-run")
    as_json = esft("tune", recipe, "--dry-run", "--json")

    assert done.exit_code == 0, done.stderr
    assert re.search(r"^memory .* free: weights", done.stdout, re.M)
    assert re.search(r"^decay ", done.stderr, re.M)
    assert json.loads(as_json.stdout)["fits"] is True
    assert sorted(tmp_path.rglob("*")) == before
    missing = esft("tune", recipe, "--dry-run", "--set", f"task.data_dir={tmp_path / 'no'}")
    assert missing.exit_code == 1
