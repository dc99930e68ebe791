"""Task know from the command line: the embedded model, asked for sums and for whether it knows."""

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_models import write_model

from esft.cli import main

SETTINGS = {
    "task.source": "subtract-two-digits",
    "task.match": "words",
    "task.reward": "confidence",
    "task.train": 16,
    "task.holdout": 24,
    "run.show_answers": 0,
}
TUNE = (
    "tune --model embedded --task know --steps 2 --population 4 --seed 1 --device cpu "
    "--run-dir run --prior 'know:20 source=add-two-digits' "
) + " ".join(f"--set {key}={value}" for key, value in SETTINGS.items())
OF_P = {"auroc", "calibration_error"}


def run(command, code=0):
    done = CliRunner().invoke(main, shlex.split(command), terminal_width=100)
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("know"))
        yield


@pytest.fixture(scope="module")
def tuned(place):
    return run(f"{TUNE} --json")


def test_tune_says_the_measures_of_target_and_prior_tasks_by_name(tuned):
    outcome = json.loads(tuned.stdout)

    of_target, of_prior = outcome["tuned"]["knowing"], outcome["priors"]["know-add-two-digits"]
    assert of_target["measures"].keys() >= OF_P
    assert of_target["n"] == 24
    # Not asked by confidence, the embedded model says neither y nor n to what it never saw.
    assert OF_P.isdisjoint(of_prior["tuned"]["knowing"]["measures"])
    assert of_prior["base"]["knowing"]["measures"]["unclear"]["value"] > 0.9
    assert "says neither Yes nor No" in of_prior["base"]["knowing"]["notes"][0]
    assert outcome["knowing"].keys() == {"know-subtract-two-digits", "know-add-two-digits"}
    changes = outcome["knowing"]["know-subtract-two-digits"]
    assert {"value", "se", "low", "high"} == changes["d_prime"].keys()


def test_eval_report_and_run_agree_on_them(tuned):
    figures = json.loads(tuned.stdout)["tuned"]["knowing"]

    record = json.loads(run("eval run --json --kl-prompts 0").stdout)
    reported = json.loads(run("report run --json").stdout)

    for tasks in (record["tasks"], reported["runs"][0]["tasks"]):
        assert tasks[0]["evaluations"][-1]["knowing"] == figures
        assert tasks[0]["comparisons"][-1]["knowing"]["d_prime"]["low"] is not None


def test_eval_prints_a_line_a_measure_and_warns_of_a_collapse(tuned):
    lines = run("eval run --kl-prompts 0").stdout.splitlines()

    assert sum("    d_prime " in line and " -> " in line for line in lines) == 2
    assert sum("d_prime by chance" in line for line in lines) == 2
    assert max(map(len, lines)) <= 80
    assert any("Warning: base model: it says neither Yes nor No" in line for line in lines)


def test_the_report_has_a_table_of_them(tuned):
    run("report run")

    text = Path("run/report.html").read_text()
    assert "Does it know what it knows?" in text
    assert "know-add-two-digits" in text.partition("Does it know")[2].partition("</section>")[0]


def test_a_run_can_be_tested_on_rows_of_another_source_but_not_on_its_own(tuned):
    other = run("eval run --prior 'know:10 source=copy-letters reward=confidence' --kl-prompts 0")
    assert "know-copy-letters (prior, 10 rows" in other.stdout

    own = run("eval run --prior 'know:10 source=subtract-two-digits'", code=2)
    assert "expected tasks of other names than the target" in own.stderr


def test_words_of_several_tokens_are_said(place):
    lines = [json.dumps({"prompt": f"{number}?", "answer": "a"}) for number in range(40)]
    Path("mine.jsonl").write_text("\n".join(lines))
    command = TUNE.replace("subtract-two-digits", "mine.jsonl").replace("embedded", "base")
    write_model(Path("base"))

    tuned, tuned_of_one = (
        run(f"{one.replace('--run-dir run', '--run-dir other')} --dry-run").stderr
        for one in (command, TUNE)
    )
    asked = "eval --prior 'know:4 source=%s reward=confidence' --model %s"
    measured = run(asked % ("mine.jsonl split=train", "base")).stderr
    of_one = run(asked % ("subtract-two-digits", "embedded")).stderr

    for said in (tuned, measured):
        assert "know-mine: the words of a claim are several tokens here" in " ".join(said.split())
    for said in (tuned_of_one, of_one):
        assert "several tokens" not in said


def test_tasks_shows_both_questions(place):
    text = run("tasks know --source subtract-two-digits").stdout

    assert "question 2, user:\n    know " in text
