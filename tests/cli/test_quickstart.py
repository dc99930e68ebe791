"""The quickstart as a newcomer runs it, with and without AWD."""

import json

import pytest
from command import esft

from esft.recipe.toml import load_recipe
from esft.report.read import read_run
from esft.report.summary import summary_of, typeset

STEPS = 10
AWD = load_recipe("quickstart", {}).anchor.awd
LESS = ("--steps", STEPS)
for less in ("task.rows_per_step=32", "task.holdout=200", "prior.rows=60"):
    LESS += ("--set", less)
"""Half of its steps, a third of its rows: they tell the two apart, all take minutes on a thread."""


@pytest.fixture(scope="module")
def with_awd(tmp_path_factory):
    run = tmp_path_factory.mktemp("quickstart") / "run"
    return run, esft("tune", "quickstart", f"--awd={AWD}", *LESS, "--run-dir", run)


@pytest.fixture(scope="module")
def without_awd(tmp_path_factory):
    run = tmp_path_factory.mktemp("quickstart") / "run"
    return run, esft("tune", "quickstart", "--awd", 0, *LESS, "--run-dir", run)


def recorded(run, step, figure="accuracy"):
    """Task to a figure at a step, the target first."""
    lines = [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]
    return {line["task"]: line[figure] for line in lines if line["step"] == step}


def prior_mean(run, step):
    _, *priors = recorded(run, step).values()
    assert len(priors) == 6
    return sum(priors) / 6


def test_the_target_is_learned_and_the_prior_tasks_stay(with_awd):
    run, done = with_awd

    assert done.exit_code == 0, done.stderr
    before, after = (recorded(run, step, "reward") for step in (0, STEPS))
    # A log-probability, 4 standard errors of the change.
    assert after["subtract-two-digits"] - before["subtract-two-digits"] >= 0.15
    assert prior_mean(run, STEPS) >= prior_mean(run, 0) - 0.10


def test_without_awd_the_prior_tasks_drift_away(without_awd):
    run, done = without_awd

    assert done.exit_code == 0, done.stderr
    assert prior_mean(run, 0) >= 0.95
    assert prior_mean(run, STEPS) <= prior_mean(run, 0) - 0.15


def test_prior_tasks_are_shown_one_by_one_while_tuning_and_at_the_end(with_awd):
    run, done = with_awd

    for name in list(recorded(run, 0))[1:]:
        assert done.stderr.count(f"  prior  {name} ") == 1  # step 5; the last one is at the end
        assert f"  {name} " in done.stdout
    assert "+-" in done.stdout


def test_the_end_says_in_the_words_of_the_report_what_tuning_did(with_awd):
    run, done = with_awd
    told, report = typeset(" ".join(done.stdout.split())), summary_of(read_run(run))

    assert f"{report.target[:-1]}; {report.priors.partition(': ')[2]} next:" in told


def test_the_end_names_the_command_without_awd_and_with_what_else_was_typed(with_awd, without_awd):
    typed = f"The same without AWD: main tune quickstart {' '.join(map(str, LESS))} --awd 0"
    assert typed in with_awd[1].stdout
    assert "without AWD" not in without_awd[1].stdout
