import json
import shutil

import pytest
from command import esft

from esft.runs.names import locked


@pytest.fixture
def damaged(made, tmp_path):
    run = shutil.copytree(made, tmp_path / "run")
    shutil.rmtree(run / "model")
    return run


def test_a_whole_run_is_shown_check_by_check_and_the_time_is_told_first(made):
    done = esft("verify", made)

    assert done.exit_code == 0, done.stderr
    *checks, last = done.stdout.splitlines()
    assert [line.split()[0] for line in checks] == ["ok"] * 4
    assert "no check failed" in " ".join(last.split())
    assert "rebuilding steps 1 to 3 from the base model and the journal: about" in done.stderr


def test_quick_starts_from_the_snapshot(made):
    done = esft("verify", made, "--quick")

    assert done.exit_code == 0, done.stderr
    assert "rebuilding" not in done.stderr


def test_a_failed_check_gives_its_hint_and_exit_code_1_after_all_others(damaged):
    done = esft("verify", damaged)

    assert done.exit_code == 1
    flat = " ".join(done.stdout.split())
    assert f"failed model/ {damaged}/model is not there Hint: esft replay" in flat
    assert "ok rebuild makes the weights of step 3" in flat
    assert "1 of 4 checks failed" in flat


def test_json_alone_goes_to_stdout(damaged):
    done = esft("verify", damaged, "--quick", "--json")

    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert (result["run"], result["ok"]) == (str(damaged), False)
    failed = [check for check in result["checks"] if check["result"] == "failed"]
    assert [check["what"] for check in failed] == ["model/"]
    assert len(result["checks"]) == 4


def test_without_a_name_the_newest_run_is_verified(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "runs" / "mine")

    done = esft("verify", "--quick")

    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "runs/mine: no check failed"


def test_a_run_in_use_is_refused_with_a_hint(made):
    with locked(made):
        done = esft("verify", made)

    assert (done.exit_code, done.stdout) == (1, "")
    assert "is in use: another process is writing its files" in done.stderr
    assert "Hint: verify it when that ends" in done.stderr
