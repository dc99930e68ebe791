"""`esft eval`, as it is typed."""

import json
import shutil
from dataclasses import replace

import pytest
from command import esft
from tiny_models import tiny_llama, write_model
from tiny_runs import Notes, a_recipe, never

from esft.recipe.settings import Prior
from esft.rollout.results import RowResult
from esft.rollout.rollout import Rollout
from esft.tuning.start import run_tuning


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run of three steps on a tiny model with a prior task."""
    folder = tmp_path_factory.mktemp("tuned")
    recipe = replace(a_recipe(folder), prior=Prior(tasks=("copy-letters:6",)))
    run_tuning(recipe, Notes(), never)
    return folder / "run"


@pytest.fixture
def run(tuned, tmp_path, monkeypatch):
    """The same as runs/tiny."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(tuned, tmp_path / "runs" / "tiny")


def test_the_newest_run_is_measured_on_the_tasks_of_a_file(run, tmp_path):
    (tmp_path / "tasks.txt").write_text("# letters\nreverse-letters:5\n\nupper-letters:4  # four\n")

    done = esft("eval", "--prior", "tasks.txt", "--kl-prompts", "2", "--kl-tokens", "3")

    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "tiny against its base model base",
        "conciseness (target, 5 rows by generate)",
    ]
    assert [line.startswith(" " * 13 + "reward ") for line in lines[2:6]] == [False, True] * 2
    assert "reverse-letters (prior, 5 rows by exact)" in lines
    assert "upper-letters (prior, 4 rows by exact)" in lines
    assert done.stdout.count("  step 0     ") == done.stdout.count("  step 3     ") == 3
    assert done.stdout.count("KL(p0||p) ") == 2
    assert "step 3: ||D|| " in done.stdout
    assert lines[-1] == "written to runs/tiny/eval.json"
    assert max(len(line) for line in lines) <= 80


def answers(monkeypatch, *outcomes):
    """What is scored from now on comes out right as these texts of 0 and 1 say, one a call."""
    left = list(outcomes)

    def measure(self, encoded):
        outcome = left.pop(0)
        return [
            RowResult(reward=float(right), correct=right == "1", answers=(f"say {len(left)}",))
            for right, _ in zip(outcome, encoded, strict=True)
        ]

    monkeypatch.setattr(Rollout, "evaluate", measure)


def test_all_verdicts_stand_together_at_the_end(run, monkeypatch):
    priors = ("--prior", "reverse-letters:4", "--prior", "upper-letters:4")
    base, one, last = (
        ("10101", "1100", "1111"),
        ("01011", "1110", "0110"),
        ("11111", "0100", "0000"),
    )
    answers(monkeypatch, *base, *one, *last)

    done = esft("eval", "--at", "1,last", *priors, "--kl-prompts", "0")

    lines = done.stdout.splitlines()
    _, *tasks = json.loads((run / "eval.json").read_text())["tasks"]
    heading = lines.index("step 3 against the base")
    last = lines[heading + 2 : heading + 4]
    for line, task, change in zip(last, tasks, ("-0.250", "-1.000"), strict=True):
        assert line.split()[:2] == [task["name"], change]
        assert line.endswith(f")  {task['verdict']['kind']}")


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_the_figures_come_first_where_they_cannot_be_written(run, as_json):
    (run / "eval.json").mkdir()

    done = esft("eval", "--prior", "copy-letters:4", "--kl-prompts", "0", *as_json)

    assert done.exit_code == 1
    assert "copy-letters" in done.stdout
    assert "written to" not in done.stdout
    assert "Error: runs/tiny/eval.json cannot be written" in done.stderr


def test_a_run_is_called_by_what_sets_it_apart_and_steps_that_would_tell_are_named(
    run, monkeypatch
):
    other = shutil.copytree(run, run.parent / "other")
    info = json.loads((other / "run.json").read_text())
    info["settings"] |= {"anchor.awd": 0.5}
    (other / "run.json").write_text(json.dumps(info))
    answers(monkeypatch, "1" * 5, "1" * 40, "1" * 5, "0" * 40)

    done = esft("eval", "tiny", "--prior", "reverse-letters:40", "--kl-prompts", "0")

    assert done.stdout.startswith("tiny (no decay) against its base model base\n")
    assert "  down: 100.0 points below the base" in done.stdout
    command = "eval tiny --prior reverse-letters:40 --kl-prompts 0 --at 1,2,3"
    assert "Hint: steps in between, from the journal: " in done.stderr
    assert done.stderr.endswith(f" {command}\n")


def test_where_the_change_sits_is_told_by_layers_and_by_the_largest_changes(run):
    done = esft("eval", "--layers", "--kl-prompts", "0", "--prior", "reverse-letters:4")

    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "  reward by the largest changes of step 3 alone: too little change to tell" in lines
    heads = [number for number, line in enumerate(lines) if "by the largest changes" in line]
    assert len(heads) == 3  # accuracy and reward of the target, accuracy of the prior task
    assert not any(lines[head + 1].startswith("    100%") for head in heads)  # nothing to share
    largest = [line for line in lines if line.startswith("  largest ")]
    assert [line.split(" of weights")[0][-5:] for line in largest] == [
        "50.0%", "20.0%", "10.0%", " 5.0%"
    ]  # fmt: skip
    layers = [line.split() for line in lines[lines.index(largest[-1]) + 2 :]]
    norms = {words[0]: float(words[2]) for words in layers if words[0].startswith("model.")}
    drift = next(line for line in lines if line.startswith("step 3: ||D|| "))
    of_all = float(drift.split()[3].rstrip(","))
    assert sum(norm**2 for norm in norms.values()) == pytest.approx(of_all**2, rel=1e-2)
    record = json.loads(esft("eval", "--layers", "--kl-prompts", "0", "--json").stdout)
    assert [one["percent"] for one in record["tasks"][0]["largest"]] == [100, 50, 20, 10, 5, 100]


def test_of_a_single_task_there_is_no_list_of_verdicts(run):
    done = esft("eval", run / "journal.jsonl", "--prior", "copy-letters:4", "--kl-prompts", "0")

    assert "step 3     " in done.stdout
    assert "against the base" not in done.stdout


def test_rows_gained_and_lost_are_told_on_request(run, monkeypatch):
    answers(monkeypatch, "10101", "1001", "11111", "0110")

    done = esft("eval", "--prior", "reverse-letters:4", "--kl-prompts", "0", "--texts", "1")

    assert done.exit_code == 0, done.output
    task = json.loads((run / "eval.json").read_text())["tasks"][1]["comparisons"][0]
    told = [line.split(":")[0] for line in done.stdout.splitlines() if ": reverse " in line]
    assert told == [f"  gained {task['gained_rows'][0]}", f"  lost {task['lost_rows'][0]}"]
    assert len(task["gained_rows"]) == len(task["lost_rows"]) == 2
    assert done.stdout.count("    before: 'say 2'") == 2
    assert done.stdout.count("    after:  'say 0'") == 2


def test_a_task_without_data_leaves_the_others_with_exit_code_1_and_json_is_all_of_stdout(
    run, tmp_path
):
    done = esft(
        *("eval", "--prior", "arc:3", "--prior", "copy-letters:4", "--kl-prompts", "0"),
        *("--at", "1,last", "--data-dir", tmp_path, "--json"),
    )

    assert done.exit_code == 1
    record = json.loads(done.stdout)
    assert record == json.loads((run / "eval.json").read_text())
    assert record["steps"] == [0, 1, 3]
    assert record["tasks"][-1]["name"] == "copy-letters"
    assert "Error: arc was not measured: " in done.stderr
    assert "Hint: " in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ("--prior tasks.txt", 2, "Error: tasks.txt line 2: task 'no-such-task' is unknown"),
        ("--margin 1", 2, "Invalid value for '--margin'"),
        ("--model model", 2, "no prior task is named"),
        ("--model model --temperature 2", 2, "--temperature is 2, expected --samples with it"),
        ("--model model --samples 0", 2, "Invalid value for '--samples'"),
        ("--base model", 2, "--base is model, expected a --model to compare with it"),
        ("--model a --model b", 2, "--model is given 2 times, expected once"),
        ("tiny --base a --model b", 2, "RUN is tiny and --base a, expected one of them"),
        ("", 1, "there is no run under runs/"),
    ],
)
def test_what_is_asked_wrongly_is_refused_before_a_model_is_loaded(
    tmp_path, monkeypatch, words, code, error
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.txt").write_text("copy-letters\nno-such-task\n")

    done = esft("eval", *words.split())

    assert (done.exit_code, done.stdout) == (code, "")
    assert error in done.stderr


def test_a_model_by_itself_needs_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")

    done = esft("eval", "--model", "model", "--device", "cpu", "--prior", "copy-letters:4")

    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("copy-letters (prior, 4 rows by exact)\n  step 0     ")


def test_sampled_answers_stand_below_each_step_and_tasks_without_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("eval", "--model", "embedded", "--device", "cpu", "--prior", "copy-letters:4")
    generated = ("--prior", "subtract-two-digits:5 scoring=generate")

    done = esft(*words, *generated, "--samples", "3", "--temperature", "0.5")

    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    first = lines.index("subtract-two-digits (prior, 5 rows by generate)")
    assert [line.split()[0] for line in lines[first + 2 : first + 5]] == [
        "pass@1",
        "pass@2",
        "pass@3",
    ]
    assert " ".join(lines[first + 5 :]) == (
        "pass@k: 3 answers drawn to each row at temperature 0.5; none to copy-letters, not scored "
        "by generation"
    )


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Folders of a base and of a model of another seed that is wider in one matrix."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "base")
    write_model(tmp_path / "wide", tiny_llama(seed=1, vocab_size=270))
    write_model(tmp_path / "other", tiny_llama(seed=1))


CHECKPOINTS = ("--base", "base", "--device", "cpu", "--kl-prompts", "2", "--kl-tokens", "3")


def test_any_checkpoints_have_the_page_of_a_run(checkpoints):
    tasks = ("--prior", "reverse-letters:5", "--prior", "upper-letters:4")

    done = esft("eval", *CHECKPOINTS, "--model", "other", "--model", "wide", *tasks)

    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:5] == [
        "step 0: base",
        "step 1: other",
        "step 2: wide",
        "  chooses among 270 tokens, the base among 261: no KL",
        "reverse-letters (prior, 5 rows by exact)",
    ]
    assert [line[:8] for line in lines if line.startswith("  step ")] == [
        f"  step {step}" for step in (0, 1, 2, 0, 1, 2)
    ]
    assert done.stdout.count("KL(p0||p) ") == 2
    assert "step 2 against the base" in lines
    assert lines[-3].startswith("step 1: ||D|| ")
    assert lines[-3].endswith("; weights unmoved 0.6%")  # norms
    assert lines[-2].startswith("step 2: ||D|| ")
    left = "; without a parameter not in both in one shape: model.embed_tokens.weight"
    assert " ".join(lines[-2:]).endswith(left)
    assert max(len(line) for line in lines) <= 80


def test_checkpoints_that_share_no_parameter_say_so_and_json_has_null(checkpoints, tmp_path):
    write_model(tmp_path / "small", tiny_llama(hidden_size=16, intermediate_size=48))
    words = ("eval", *CHECKPOINTS, "--model", "small", "--prior", "copy-letters:4")

    said, record = esft(*words).stdout, json.loads(esft(*words, "--json").stdout)

    assert said.endswith("step 1: no distance of the weights: none are in both models\n")
    assert record["drift"][0]["norm"] is None
    assert record["drift"][0]["unmatched"][0] == "model.embed_tokens.weight"
    assert [one["id"] for one in record["models"]] == ["small"]
    assert (record["model"], record["run"]) == ("base", None)
    assert len(record["tasks"][0]["kl"]) == 1


def test_ctrl_c_says_that_what_was_measured_is_kept(run, monkeypatch):
    def interrupted(self, encoded):
        raise KeyboardInterrupt

    monkeypatch.setattr(Rollout, "evaluate", interrupted)

    done = esft("eval", "--prior", "reverse-letters:5", "--kl-prompts", "0")

    assert done.exit_code == 130
    kept, stopped = done.stderr.splitlines()[-2:]
    assert kept == "What was measured is kept: the same command goes on from there."
    assert stopped == "Stopped."
