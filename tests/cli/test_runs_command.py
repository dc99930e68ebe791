import json
import shutil

import pytest
from command import esft

LONG = "the-run-of-a-model-with-a-name-that-is-much-longer-than-a-line-of-eighty-columns-can-be-1"


@pytest.fixture
def runs(made, tmp_path, monkeypatch):
    """The folder runs/ with one run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "runs" / "mine")
    return tmp_path / "runs"


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
