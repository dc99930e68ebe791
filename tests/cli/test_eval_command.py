"""`esft eval`, as it is typed."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from runs import Notes, a_recipe, never
from tiny_models import write_model

from esft.cli import main
from esft.recipe import Prior, Run
from esft.tune import run_tuning


def esft(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of three steps on a tiny model with a prior task, as runs/tiny."""
    monkeypatch.chdir(tmp_path)
    recipe = replace(
        a_recipe(tmp_path), prior=Prior(tasks=("copy-letters:6",)), run=Run(dir="runs/tiny")
    )
    run_tuning(recipe, Notes(), never)
    return tmp_path / "runs" / "tiny"


def test_the_newest_run_is_measured_on_the_tasks_of_a_file(run, tmp_path):
    (tmp_path / "tasks.txt").write_text("# letters\nreverse-letters:5\n\nupper-letters:4  # four\n")

    done = esft("eval", "--prior", "tasks.txt", "--kl-prompts", "2", "--kl-tokens", "3")

    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "conciseness (target, 5 rows by generate)"
    assert [line.startswith(" " * 13 + "reward ") for line in lines[1:5]] == [False, True] * 2
    assert "reverse-letters (prior, 5 rows by exact)" in lines
    assert "upper-letters (prior, 4 rows by exact)" in lines
    assert done.stdout.count("  step 0     ") == done.stdout.count("  step 3     ") == 3
    assert done.stdout.count("KL(p0||p) ") == 2
    assert "step 3: ||D|| " in done.stdout
    assert lines[-1] == "written to runs/tiny/eval.json"
    assert max(len(line) for line in lines) <= 80


def test_all_verdicts_stand_together_at_the_end(run):
    done = esft("eval", "--at", "1,last", "--kl-prompts", "0")

    lines = done.stdout.splitlines()
    tasks = json.loads((run / "eval.json").read_text())["tasks"]
    place = lines.index("step 3 against the base")
    for line, task in zip(lines[place + 1 :], tasks, strict=False):
        name, change, *_ = line.split()
        assert (name, change) == (task["name"], f"{task['comparisons'][-1]['change']:+.3f}")
        assert line.endswith(f")  {task['verdict']['kind']}")
    assert len(tasks) == 2


def test_json_is_all_of_stdout(run):
    done = esft("eval", "--at", "1,last", "--kl-prompts", "0", "--json")

    record = json.loads(done.stdout)
    assert record == json.loads((run / "eval.json").read_text())
    assert record["steps"] == [0, 1, 3]


def test_rows_gained_and_lost_are_told_on_request(run, monkeypatch):
    from esft.rollout import Rollout

    measure, calls = Rollout.measure, []

    def turned(self, prepared):
        calls.append(None)
        results = measure(self, prepared)
        return [
            replace(each, correct=len(calls) > 1, answer=f"say {len(calls)}") for each in results
        ]

    monkeypatch.setattr(Rollout, "measure", turned)
    (run / "recipe.toml").write_text(
        (run / "recipe.toml").read_text().replace("holdout = 5", "holdout = 4")
    )

    done = esft("eval", "--prior", "copy-letters:3", "--kl-prompts", "0", "--texts", "2")

    assert done.exit_code == 0, done.output
    gained = [line for line in done.stdout.splitlines() if line.startswith("  gained copy-")]
    assert len(gained) <= 2
    assert "    before: " in done.stdout
    assert "    after:  " in done.stdout


def test_a_task_without_data_leaves_the_others_and_exits_with_1(run, tmp_path):
    done = esft(
        *("eval", "--prior", "arc:3", "--prior", "copy-letters:4", "--kl-prompts", "0"),
        *("--data-dir", tmp_path),
    )

    assert done.exit_code == 1
    assert "copy-letters (prior, 4 rows by exact)" in done.stdout
    assert "Error: arc was not measured: " in done.stderr
    assert "Hint: " in done.stderr


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "tasks.txt"),
        ("# nothing\n", "tasks.txt"),
        ("copy-letters:0\n", "line 1"),
        ("copy-letters\nno-such-task\n", "line 2"),
        ("copy-letters colour=red\n", "line 1"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(run, tmp_path, text, error):
    (tmp_path / "tasks.txt").write_text(text)

    done = esft("eval", "--prior", "tasks.txt")

    assert done.exit_code == 2
    assert error in done.stderr
    assert not (run / "eval.json").exists()


def test_a_model_by_itself_needs_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")

    done = esft("eval", "--model", "model", "--device", "cpu", "--prior", "copy-letters:4")

    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("copy-letters (prior, 4 rows by exact)\n  step 0     ")


def test_without_a_run_or_a_task_it_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")

    no_run, no_task = esft("eval"), esft("eval", "--model", "model")

    assert (no_run.exit_code, no_task.exit_code) == (1, 2)
    assert "there is no run under runs/" in no_run.stderr
    assert "no prior task is named" in no_task.stderr


def test_ctrl_c_says_that_what_was_measured_is_kept(run, monkeypatch):
    def interrupted(self, prepared):
        raise KeyboardInterrupt

    monkeypatch.setattr("esft.rollout.Rollout.measure", interrupted)

    done = esft("eval", "--prior", "reverse-letters:5", "--kl-prompts", "0")

    assert done.exit_code == 130
    lines = done.stderr.splitlines()
    assert lines[-2:] == [
        "What was measured is kept: the same command goes on from there.",
        "Stopped.",
    ]


@pytest.mark.parametrize(
    "words",
    ["--margin 0", "--margin 1", "--texts -1", "--kl-prompts -1", "--kl-tokens 0", "--rows 0"],
)
def test_a_number_out_of_range_is_refused(words):
    done = esft("eval", *words.split())

    assert done.exit_code == 2
    assert f"Invalid value for '{words.split()[0]}'" in done.stderr
