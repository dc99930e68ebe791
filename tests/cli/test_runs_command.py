"""`esft runs` and `esft verify`, as they are typed."""

import json
import shutil

import pytest
from command import esft

from esft.runs.names import locked

LONG = "the-run-of-a-model-with-a-name-that-is-much-longer-than-a-line-of-eighty-columns-can-be-1"


@pytest.fixture
def runs(made, tmp_path, monkeypatch):
    """The folder runs/ with one run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "runs" / "mine")
    return tmp_path / "runs"


@pytest.fixture
def damaged(runs):
    shutil.rmtree(runs / "mine" / "model")


def test_without_runs_there_is_a_hint_and_no_failure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    done = esft("runs")

    assert (done.exit_code, done.stdout) == (0, "")
    assert "There is no run under runs/." in done.stderr
    assert "Hint: start one: esft tune quickstart" in done.stderr
    assert esft("runs", "--json").stdout == "[]\n"


def test_a_run_is_shown_with_its_figures_under_their_heads(runs):
    done = esft("runs")

    assert done.exit_code == 0, done.stderr
    heads, *name, figures = done.stdout.splitlines()
    assert heads.split() == ["steps", "reward", "||D||", "size", "state"]
    assert " ".join(name).startswith("mine  conciseness on ")
    steps, before, arrow, after, drift, *size, state = figures.split()
    assert (steps, arrow, state) == ("3/3", "->", "finished")
    lines = [json.loads(line) for line in (runs / "mine/evals.jsonl").read_text().splitlines()]
    assert [before, after] == [f"{line['reward']:.3f}" for line in lines]
    last = json.loads((runs / "mine/metrics.jsonl").read_text().splitlines()[-1])
    assert drift == f"{last['drift']:.4g}"
    assert size[1] == "kB"
    assert heads.index("||D||") + len("||D||") == figures.index(drift) + len(drift)
    (listed,) = json.loads(esft("runs", "--json").stdout)
    assert (listed["path"], listed["state"], listed["steps"]) == ("runs/mine", "finished", 3)


def test_a_damaged_run_has_the_reason_below_its_name_and_all_is_folded_to_80_columns(runs):
    shutil.copytree(runs / "mine", runs / LONG)
    (runs / LONG / "run.json").write_text("{")

    done = esft("runs")

    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    state = next(number for number, line in enumerate(lines) if line.endswith("  damaged"))
    assert LONG in "".join("".join(lines[:state]).split())
    assert lines[state + 1].startswith("    runs/the-run-of")
    assert any(line.endswith("finished") for line in lines)


def test_the_newest_run_is_verified_check_by_check_and_the_time_is_told_first(runs):
    done, quick = esft("verify"), esft("verify", "--quick")

    assert done.exit_code == quick.exit_code == 0, done.stderr
    *checks, last = done.stdout.splitlines()
    assert [line.split()[0] for line in checks] == ["ok"] * 6
    assert last == "runs/mine: no check failed"
    assert "rebuilding steps 1 to 3 from the base model and the journal: about" in done.stderr
    assert "rebuilding" not in quick.stderr  # it starts from the snapshot


def test_a_failed_check_gives_its_hint_and_exit_code_1_after_all_others(damaged):
    done = esft("verify", "mine")

    assert done.exit_code == 1
    flat = " ".join(done.stdout.split())
    assert "failed model/ runs/mine/model is not there Hint: esft replay" in flat
    assert "ok rebuild makes the weights of step 3" in flat
    assert "1 of 6 checks failed" in flat


def test_the_checks_are_json_alone_on_stdout(damaged):
    done = esft("verify", "mine", "--quick", "--json")

    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert (result["run"], result["ok"]) == ("runs/mine", False)
    failed = [check["what"] for check in result["checks"] if check["result"] == "failed"]
    assert failed == ["model/"]
    assert len(result["checks"]) == 6


def test_a_run_in_use_is_not_verified(runs):
    with locked(runs / "mine"):
        done = esft("verify", "mine")

    assert (done.exit_code, done.stdout) == (1, "")
    assert "is in use: another process is writing its files" in done.stderr
    assert "Hint: verify it when that ends" in done.stderr
