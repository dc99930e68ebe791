import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from subprocess import PIPE

import pytest
from command import Started, esft
from tiny_models import write_model
from tiny_runs import a_recipe

from esft.recipe.settings import Prior
from esft.recipe.toml import dump_recipe, load_recipe

TINY = ["--task", "conciseness", "--device", "cpu", "--steps", "2", "--population", "4"]
ROWS = ["--set", "task.train=5", "--set", "task.holdout=4", "--set", "task.max_new_tokens=4"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("models") / "base"))


def test_options_replace_the_values_of_a_recipe_and_json_alone_goes_to_stdout(tmp_path):
    prior = Prior(tasks=("countdown:2 max_new_tokens=4",))
    recipe = replace(a_recipe(tmp_path, steps=50), prior=prior)
    (tmp_path / "my.toml").write_text(dump_recipe(recipe))

    done = esft(
        *("tune", tmp_path / "my.toml", "--steps", 1, "--awd", 1e-9, "--prior-every", 1),
        *("--set", "search.sigma=1e-8", "--json"),
    )

    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["steps"], result["run"]) == (1, str(tmp_path / "run"))
    assert set(result["tuned"]) >= {"n", "accuracy", "se", "reward", "reward_se"}
    changed = load_recipe(str(tmp_path / "run" / "recipe.toml"), {})
    assert changed == replace(
        recipe,
        search=replace(recipe.search, steps=1, sigma=1e-8),
        anchor=replace(recipe.anchor, awd=1e-9),
        prior=replace(prior, every=1),
    )
    said = " ".join(done.stderr.split())
    assert "Warning: this decay does next to nothing within 1 steps" in said
    assert "Warning: sigma 1e-08 is too small to move" in said


def test_a_model_is_tuned_from_options_alone_and_prior_tasks_of_files_and_lines_are_watched(
    base, tmp_path
):
    (tmp_path / "tasks.txt").write_text(
        "# watched\nsort-digits:3 max_new_tokens=2\ncountdown:2 max_new_tokens=4\n"
    )
    run = tmp_path / "out"

    done = esft(
        "tune", "--model", base, *TINY, *ROWS, "--prior", tmp_path / "tasks.txt", "--prior",
        "copy-letters:4 scoring=generate", "--prior-every", 1, "--run-dir", run, "--set",
        'prior.tasks=["arc"]', "--seed", 0,
    )  # fmt: skip

    assert done.exit_code == 0, done.stderr
    assert "reward" in done.stdout
    assert f"model      {run}/model" in done.stdout
    assert any(line.split()[:1] == ["2/2"] for line in done.stderr.splitlines())
    assert "holdout rows, and reward and answer of the base model:\n" in done.stderr
    *_, ask, report, export = done.stdout.splitlines()
    assert ask.split()[:3] == ["esft", "ask", str(run)]
    assert report.split()[:3] == ["esft", "report", str(run)]
    assert export.split()[:3] == ["esft", "export", str(run)]
    assert " on 4 rows, " in done.stdout
    assert "2/2" not in done.stdout
    lines = [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]
    measured = [(line["step"], line["task"], line["n"]) for line in lines]
    rows = [("conciseness", 4), ("sort-digits", 3), ("countdown", 2), ("copy-letters", 4)]
    assert measured == [(step, *task) for step in (0, 1, 2) for task in rows]
    recipe = load_recipe(str(run / "recipe.toml"), {})
    assert (recipe.prior.every, recipe.search.seed) == (1, 0)
    assert recipe.prior.tasks == (
        "sort-digits:3 max_new_tokens=2", "countdown:2 max_new_tokens=4",
        "copy-letters:4 scoring=generate",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "code", "message", "hint"),
    [
        ("--model m", 2, "[task] name is not set", "--task arc"),
        ("--model m --task arc --sigma 0", 2, "--sigma: [search] sigma is 0", "sigma = 0.001"),
        ("--model m --task arc --set sigma", 2, "sigma", "search.sigma="),
        ("--model m --task conciseness --device warp", 1, "warp", "cpu"),
        ("--model SmolLM --task conciseness", 1, "SmolLM", "SmolLM2"),
        ("nosuch", 2, "nosuch", "arc-qwen2.5-1.5b"),
        ("--model m --task arc --prior gsm8k:0", 2, '--prior: "gsm8k:0": rows is 0', "rows=100"),
        ("--model m --task conciseness --prior conciseness:5", 2, "than the target", "take"),
    ],
)
def test_what_a_user_can_fix_is_said_without_a_traceback(line, code, message, hint):
    done = esft("tune", *line.split())

    assert done.exit_code == code
    assert "Error: " in done.stderr
    assert message in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def slow(base, run):
    """Words of a run whose members are slow enough to be stopped between them."""
    return "tune", "--model", base, *TINY[:-4], "--steps", 1000, *ROWS, "--run-dir", run


def wait_for_step(process, number):
    for line in process.stderr:
        if line.split()[:1] == [f"{number}/1000"]:
            return
    pytest.fail("the run ended before its step")


def test_a_signal_finishes_the_step_saves_the_model_and_exits_with_130(base, tmp_path):
    process = Started(tmp_path, *slow(base, "out"))
    wait_for_step(process, 2)

    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate()

    assert process.returncode == 130, stderr
    assert "Stopping after this step" in stderr
    assert "stopped after" in stdout
    steps = (tmp_path / "out" / "journal.jsonl").read_text().splitlines()[1:]
    assert f"stopped after {len(steps)} steps" in stdout
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "stopped"


def test_a_second_ctrl_c_stops_at_once_with_nothing_half_written(base, tmp_path):
    process = Started(tmp_path, *slow(base, "out"))
    wait_for_step(process, 1)

    process.send_signal(signal.SIGINT)
    time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()

    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    lines = (tmp_path / "out" / "journal.jsonl").read_text().splitlines()
    assert all(json.loads(line)["checksum"] for line in lines)
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_a_stop_while_the_model_loads_leaves_no_run(base, tmp_path):
    command = [sys.executable, "-m", "esft", *map(str, slow(base, tmp_path / "out"))]
    process = subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True)
    assert process.stderr.readline().startswith("loading")

    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)

    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert not (tmp_path / "out").exists()


def test_two_runs_started_together_get_two_names(base, tmp_path):
    command = ("tune", "--model", base, *TINY, *ROWS, "--steps", 1, "--seed", 1)

    both = [Started(tmp_path, *command) for _ in range(2)]
    told = [process.communicate()[1] for process in both]

    assert [process.returncode for process in both] == [0, 0], told
    runs = [tmp_path / "runs" / f"conciseness-base-{number}" for number in (1, 2)]
    assert sorted((tmp_path / "runs").iterdir()) == runs
    assert (
        runs[0].joinpath("journal.jsonl").read_bytes() == (runs[1] / "journal.jsonl").read_bytes()
    )
    names = {stderr.split("run     ")[1].split()[0] for stderr in told}
    assert names == {str(run.relative_to(tmp_path)) for run in runs}
