import json
import math
from pathlib import Path

import pytest
from records import a_score, a_step, an_info

from esft.engine.journal_read import read_journal
from esft.errors import RunError
from esft.runs.folder import create_run, open_run, require_room
from esft.runs.names import choose_run_path
from esft.runs.records import RUN_FORMAT, RecordedRow, evaluation, metrics, read_info, scores


def test_a_run_gets_the_next_free_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []

    for _ in range(3):
        path = choose_run_path(None, "arc-easy", "org/SmolLM2-135M.Q4_1.gguf")
        names.append(str(path))
        create_run(path, "", an_info(), {})

    assert names == [f"runs/arc-easy-smollm2-135m.q4-1-{number}" for number in (1, 2, 3)]
    assert choose_run_path(None, "my/sums.jsonl", "embedded") == Path("runs/sums-embedded-1")


def test_a_named_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    choose_run_path(str(tmp_path / "out"), "arc", "model")
    (tmp_path / "out" / "precious").write_text("")

    with pytest.raises(RunError, match=r"run folder .*out exists.*never overwritten") as caught:
        choose_run_path(str(tmp_path / "out"), "arc", "model")

    assert "another --run-dir" in caught.value.hint


def test_the_folder_appears_whole_with_recipe_info_and_the_head_of_the_journal(tmp_path):
    create_run(tmp_path / "a" / "run", 'x = "1"\n', an_info(), {"seed": 7})

    assert (tmp_path / "a" / "run" / "recipe.toml").read_text() == 'x = "1"\n'
    record = read_journal(tmp_path / "a" / "run" / "journal.jsonl")
    assert read_info(tmp_path / "a" / "run") == an_info(journal=record.checksum)
    assert (record.header, record.last) == ({"seed": 7}, 0)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run"]


def test_what_a_run_records_is_there_line_by_line_with_null_for_nan(tmp_path):
    run = create_run(tmp_path / "run", "", an_info(state="running"), {})
    rows = [
        RecordedRow(id=id, key=id, reward=reward, correct=True)
        for id, reward in (("a", 1.0), ("b", math.nan))
    ]

    run.record_metrics(a_step(1))
    run.record_metrics(a_step(2, drift=math.inf))
    run.record_evaluation(a_score(0, task="my Task"), rows)
    run.update_info(state="finished")

    assert metrics(run.path) == [a_step(1), a_step(2, drift=None)]
    assert scores(run.path) == [a_score(0, task="my Task")]
    assert '"key": "b"' in (run.path / "evals" / "my-task-0.jsonl").read_text().splitlines()[1]
    first, second = evaluation(run.path, a_score(0, task="my Task")).results
    assert (first.reward, math.isnan(second.reward)) == (1.0, True)
    assert read_info(run.path) == an_info(journal=run.info.journal)


def test_a_disk_without_room_for_the_model_is_refused_before_the_run(tmp_path):
    require_room(tmp_path / "not" / "there", 1)

    with pytest.raises(RunError, match="MB free, expected 1,000,000,000,000 MB"):
        require_room(tmp_path / "not" / "there", 10**18)


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        (RUN_FORMAT - 1, "its journal still rebuilds its model: esft replay"),
        (RUN_FORMAT + 1, "a newer esft may have written it"),
    ],
)
def test_a_run_of_another_format_says_what_can_be_done(tmp_path, version, hint):
    (tmp_path / "run.json").write_text(json.dumps({"format": version}))

    with pytest.raises(RunError, match=f"has format {version!r}, expected {RUN_FORMAT}") as caught:
        open_run(tmp_path)

    assert hint in caught.value.hint
