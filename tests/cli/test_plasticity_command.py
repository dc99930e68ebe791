"""`esft plasticity`."""

import json
import shutil

import pytest
from command import esft

SMALL = ("--task", "copy-letters", "--rows", 4, "--set", "task.train=8", "--kl-prompts", 2)
SMALL += ("--kl-tokens", 4)
ONE = (*SMALL, "--seeds", 1)


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    """A copy of a run; what is learned from it stays for the tests to come."""
    return shutil.copytree(made, tmp_path_factory.mktemp("plasticity") / "run")


def test_tables_and_verdict_fit_80_columns_and_the_file_says_the_same(run):
    done = esft("plasticity", run, *SMALL, "--seeds", 2)

    assert done.exit_code == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("written to ")]
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("run, step 3 (tuned on conciseness), learns copy-letters")
    assert [line.split()[1] for line in lines if line.startswith("      step")] == list("0123")
    assert "base learned nothing: " in done.stdout
    assert "seeds 1001 to 1002" in done.stdout
    printed = esft("plasticity", run, *SMALL, "--seeds", 2, "--json")
    (record,) = json.loads(printed.stdout)
    assert record == json.loads((run / "plasticity.json").read_text())
    assert record["verdict"]["kind"] == "base learned nothing"


def test_of_one_seed_it_is_said_that_others_may_differ(run):
    done = esft("plasticity", run, run / "model" / "..", *ONE)  # one run, named twice

    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("other seeds may") == 1


def test_a_proxy_is_called_one_and_several_runs_come_into_a_picture(run, made, tmp_path):
    other = shutil.copytree(made, tmp_path / "other")
    picture = tmp_path / "far.png"
    done = esft("plasticity", run, other, *ONE, "--proxy", "--plot", picture)

    assert done.exit_code == 0, done.stderr
    assert " ".join(done.stdout.split()).count("a proxy, no step: 30 members") == 2
    # A path stays whole, however long.
    lines = [line for line in done.stdout.splitlines() if not line.startswith("written to ")]
    assert max(map(len, lines)) <= 80
    assert [line.split()[-1] for line in done.stdout.splitlines()[-2:]] == ["run", "other"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_ctrl_c_says_how_it_goes_on(run, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("esft.evals.plasticity.run_plasticity", stopped)
    done = esft("plasticity", run, *ONE)

    assert done.exit_code == 130
    assert "What was learned is kept: the same command goes on from there." in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--steps", 3, "--proxy"], 2, "--steps is of learning curves, and --proxy makes none"),
        (["--by", "right", "--proxy"], 2, "--by is of learning curves"),
        (["--task", "conciseness"], 2, "tuned on, expected another"),
        (["--task", "copy-letter"], 2, "did you mean"),
        (["--rows", 10**7], 1, "expected 10000000"),
        (["--set", "model.id=x"], 2, "--set model.id: it follows from the run"),
        (["--plot", "."], 1, "exists, expected a new file"),
    ],
)
def test_what_is_wrong_is_said_with_a_way_out(run, words, code, said):
    done = esft("plasticity", run, *ONE, *words)

    assert done.exit_code == code
    assert said in " ".join(done.stderr.split())


def test_a_task_is_asked_for():
    done = esft("plasticity")

    assert done.exit_code == 2
    assert "Missing option '--task'" in done.stderr
