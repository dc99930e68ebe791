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
    assert heads.split() == ["began", "right", "reward", "steps", "size", "state"]
    assert " ".join(name) == "mine  conciseness on base"
    before, after = (json.loads(line) for line in (runs / "mine/evals.jsonl").open())
    cells = [figures[: heads.index(head) + len(head)].split("  ")[-1] for head in heads.split()]
    assert cells[1] == f"{100 * before['accuracy']:.0f} -> {100 * after['accuracy']:.0f} %"
    assert cells[2] == f"{before['reward']:.3f} -> {after['reward']:.3f}"
    assert cells[3].strip() == "3/3"
    assert figures.endswith(" kB  finished")
    (listed,) = json.loads(esft("runs", "--json").stdout)
    assert (listed["path"], listed["state"], listed["steps"]) == ("runs/mine", "finished", 3)


@pytest.mark.parametrize(
    ("started", "begins"),
    [("2001-03-04T12:00:00+00:00", "4 Mar 2001"), ("yesterday", "-")],
)
def test_a_run_is_shown_with_its_day_or_its_year(runs, started, begins):
    info = json.loads((runs / "mine/run.json").read_text())
    (runs / "mine/run.json").write_text(json.dumps(info | {"started": started}))

    figures = esft("runs").stdout.splitlines()[-1]

    assert figures.lstrip().startswith(f"{begins}  ")


def test_runs_are_removed_after_a_question_that_says_what_it_frees(runs):
    size = json.loads(esft("runs", "--json").stdout)[0]["size"]

    kept, gone = esft("rm", "mine", typed="n\n"), esft("rm", "mine", typed="y\n")

    assert (kept.exit_code, gone.exit_code) == (0, 0)
    assert kept.stdout.endswith("Nothing was removed.\n")
    freed = f"{size / 1000:.1f} kB"
    assert kept.stdout.count(freed) == 2
    assert gone.stdout.endswith(f"removed runs/mine: {freed} freed\n")
    assert list(runs.iterdir()) == []


def test_several_runs_are_removed_unasked_and_what_they_link_to_stays(runs, tmp_path):
    shutil.copytree(runs / "mine", tmp_path / "elsewhere")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    (runs / "mine" / "link").symlink_to(tmp_path / "precious")
    (runs / "mine" / "run").symlink_to(tmp_path / "elsewhere")

    done = esft("rm", "mine", "./runs/mine", tmp_path / "elsewhere", "--yes")

    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("removed ") == 2
    assert not (runs / "mine").exists()
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize("wrong", ["held", "linked", "outer", "typo"])
def test_where_one_run_may_not_be_removed_none_is(runs, wrong):
    shutil.copytree(runs / "mine", runs / "held")
    shutil.copytree(runs / "mine", runs / "outer")
    shutil.copytree(runs / "mine", runs / "outer" / "inner")
    (runs / "linked").symlink_to(runs / "held")

    with locked(runs / "held"):
        done = esft("rm", "mine", wrong, "--yes")

    why = {"held": "is in use", "linked": "is a link to", "outer": "has another run in it"}
    assert done.exit_code == 1
    assert why.get(wrong, "typo is not a run") in done.stderr
    assert "Hint: " in done.stderr
    assert {path.name for path in runs.iterdir()} == {"mine", "held", "outer", "linked"}


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
