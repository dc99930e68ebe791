"""`esft resume` and `esft replay`, as they are typed."""

import json
from dataclasses import replace

import pytest
from command import esft
from tiny_runs import Notes, a_recipe

from esft.recipe.settings import Run
from esft.tuning.start import run_tuning


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run of five steps on a tiny model, stopped after two, as runs/tiny."""
    monkeypatch.chdir(tmp_path)
    recipe = replace(a_recipe(tmp_path, steps=5), run=Run(dir="runs/tiny"))
    notes = Notes()
    run_tuning(recipe, notes, lambda: len(notes.steps) >= 2)
    return tmp_path / "runs" / "tiny"


@pytest.mark.parametrize("words", [(), ("tiny",), ("runs/tiny",)])
def test_resume_goes_on_with_the_newest_run_or_the_one_named(stopped, words):
    done = esft("resume", *words)

    assert done.exit_code == 0, done.output
    assert "run        done: 5 steps" in done.stdout
    assert f"model      {'runs/tiny'}/model" in done.stdout
    assert "    3/5" in done.stderr
    assert "    2/5" not in done.stderr


def test_resume_of_a_finished_run_says_so(stopped):
    esft("resume")

    again, as_json = esft("resume"), esft("resume", "--json")

    assert again.exit_code == as_json.exit_code == 0
    assert again.stdout == "run runs/tiny is finished: 5 steps, model runs/tiny/model\n"
    assert json.loads(as_json.stdout) == {"run": "runs/tiny", "steps": 5, "state": "finished"}


def test_resume_prints_json_alone(stopped):
    result = json.loads(esft("resume", "--json").stdout)

    assert (result["steps"], result["planned"], result["stopped"]) == (5, 5, False)


def test_without_a_run_there_is_nothing_to_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    done = esft("resume")

    assert done.exit_code == 1
    assert "Error: there is no run under runs/" in done.stderr
    assert "Hint: name the folder of a run, or start one: esft tune quickstart" in done.stderr


def test_a_run_that_is_none_is_refused_with_those_there_are(stopped):
    for words in (("resume", "tinny"), ("replay", "tinny", "--out", "out")):
        done = esft(*words)

        assert done.exit_code == 1
        assert "Error: tinny is not a run, expected a name under runs/" in done.stderr
        assert "the newest are tiny" in done.stderr


def test_a_changed_recipe_is_refused(stopped):
    recipe = stopped / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("sigma = 0.02", "sigma = 0.01"))

    refused = esft("resume")

    assert refused.exit_code == 1
    assert "search.sigma is 0.01, the run has 0.02" in refused.stderr


def test_tune_into_the_folder_of_a_run_names_resume(stopped):
    done = esft("tune", "runs/tiny/recipe.toml", "--run-dir", "runs/tiny")

    assert done.exit_code == 1
    assert "a run is never overwritten" in done.stderr
    assert "esft resume runs/tiny goes on with it" in done.stderr


def test_a_stopped_run_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_recipe(tmp_path)
    monkeypatch.setattr("esft.cli.stop.StopSignals.asked", lambda self: True)

    done = esft(
        *("tune", "--model", "base", "--task", "conciseness", "--population", "2", "--seed", "1"),
        *("--set", "task.train=2", "--set", "task.holdout=2", "--set", "task.max_new_tokens=2"),
    )

    assert done.exit_code == 130, done.output
    assert "go on      esft resume runs/conciseness-base-1" in done.stdout


def test_replay_writes_the_model_of_a_step(stopped):
    done = esft("replay", "--at", "1", "--out", "one")

    assert done.exit_code == 0, done.output
    assert "rebuilding step 1 from the base model and the journal: about" in done.stderr
    assert done.stdout.startswith("step 1 of runs/tiny/journal.jsonl\nweights  sha256 ")
    assert (stopped.parent.parent / "one" / "model.safetensors").exists()


def test_replay_of_the_saved_step_is_the_saved_model(stopped):
    done = esft("replay", "tiny", "--out", "two", "--from-base")

    assert "step 2 of runs/tiny/journal.jsonl, the weights that the run recorded" in done.stdout
    left, right = (
        (folder / "model.safetensors").read_bytes()
        for folder in (stopped / "model", stopped.parent.parent / "two")
    )
    assert left == right


def test_replay_needs_a_new_folder_and_a_step_there_is(stopped):
    (stopped.parent.parent / "full").mkdir()
    (stopped.parent.parent / "full" / "file").write_text("")

    taken = esft("replay", "--out", "full")
    beyond = esft("replay", "--at", "3", "--out", "out")

    assert (taken.exit_code, beyond.exit_code) == (1, 1)
    assert "full exists, expected a new or an empty folder" in taken.stderr
    assert "--at is '3', expected best, last or a step from 0 to 2" in beyond.stderr
    assert not (stopped.parent.parent / "out").exists()
