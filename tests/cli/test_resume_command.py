"""`esft resume` and `esft replay`, as they are typed."""

import json
import shutil

import pytest
from command import esft
from tiny_runs import Notes, a_recipe

from esft.tuning.start import run_tuning


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """A run of five steps on a tiny model, stopped after two."""
    folder, notes = tmp_path_factory.mktemp("stopped"), Notes()
    run_tuning(a_recipe(folder, steps=5), notes, lambda: len(notes.steps) >= 2)
    return folder / "run"


@pytest.fixture
def stopped(stopped_once, tmp_path, monkeypatch):
    """The same as runs/tiny."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(stopped_once, tmp_path / "runs" / "tiny")


def test_resume_goes_on_with_the_newest_run_and_says_so_of_one_that_is_finished(stopped):
    done, again = esft("resume"), esft("resume", "tiny")
    as_json = esft("resume", "--json")

    assert done.exit_code == 0, done.output
    assert "run        done: 5 steps" in done.stdout
    assert "model      runs/tiny/model" in done.stdout
    assert "    3/5" in done.stderr
    assert "    2/5" not in done.stderr
    assert again.exit_code == as_json.exit_code == 0
    assert again.stdout == "run runs/tiny is finished: 5 steps, model runs/tiny/model\n"
    assert json.loads(as_json.stdout) == {"run": "runs/tiny", "steps": 5, "state": "finished"}


def test_a_finished_run_takes_more_steps_and_keeps_their_number(stopped):
    esft("resume")

    refused, more, again = (
        esft("resume", "--steps", "4"),
        esft("resume", "--steps", "7"),
        esft("resume"),
    )

    assert refused.stdout == "run runs/tiny is finished: 5 steps, model runs/tiny/model\n"
    assert more.exit_code == 0, more.output
    assert "run        done: 7 steps" in more.stdout
    assert again.stdout.startswith("run runs/tiny is finished: 7 steps")


def test_resume_prints_json_alone(stopped):
    result = json.loads(esft("resume", "--json").stdout)

    assert (result["steps"], result["planned"], result["stopped"]) == (5, 5, False)


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ("resume tinny", "tinny is not a run, expected a name under", "the newest are tiny"),
        ("replay tinny --out out", "tinny is not a run", "the newest are tiny"),
        ("tune runs/tiny/recipe.toml --run-dir runs/tiny", "", "esft resume runs/tiny goes on"),
        ("replay --out runs", "runs exists, expected a new or an empty folder", ""),
        ("replay --at 3 --out out", "--at is '3', expected best, last or a step from 0 to 2", ""),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_written(stopped, words, error, hint):
    done = esft(*words.split())

    assert (done.exit_code, done.stdout) == (1, "")
    assert f"Error: {error}" in done.stderr
    assert hint in done.stderr
    assert not (stopped.parent.parent / "out").exists()


def test_a_stopped_run_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_recipe(tmp_path)
    monkeypatch.setattr("esft.cli.show.PlainWatcher.asked", lambda self: True)

    done = esft(
        *("tune", "--model", "base", "--task", "conciseness", "--population", "2", "--seed", "1"),
        *("--set", "task.train=2", "--set", "task.holdout=2", "--set", "task.max_new_tokens=2"),
    )

    assert done.exit_code == 130, done.output
    assert "  esft resume conciseness-base-1 " in done.stdout


def test_replay_writes_the_model_of_a_step(stopped):
    done = esft("replay", "--at", "1", "--out", "one")

    assert done.exit_code == 0, done.output
    assert "rebuilding step 1 from the base model and the journal: about" in done.stderr
    assert done.stdout.startswith("step 1 of runs/tiny/journal.jsonl\nweights  sha256 ")
    assert (stopped.parent.parent / "one" / "model.safetensors").exists()
    saved = esft("replay", "tiny", "--out", "two").stdout.splitlines()[0]
    assert saved == "step 2 of runs/tiny/journal.jsonl, the weights that the run recorded"
