"""An exported journal: what it rebuilds, and what it says of that."""

import json
import shutil

import pytest
from tiny_runs import Notes, a_recipe, never

from esft.errors import RunError
from esft.export.journal import export_journal
from esft.tuning.rebuild import find_source, rebuild
from esft.tuning.start import run_tuning


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps on a tied Llama in float32."""
    folder = tmp_path_factory.mktemp("one")
    run_tuning(a_recipe(folder, population=2), Notes(), never)
    return str(folder / "run")


def test_an_exported_journal_rebuilds_the_step_and_says_what_it_must_be(run, tmp_path):
    done = export_journal(find_source(run), "last", tmp_path / "new" / "my.jsonl", Notes())

    again = rebuild(find_source(str(tmp_path / "new" / "my.jsonl")), "last", Notes())
    info = json.loads((find_source(run).run.path / "run.json").read_text())
    assert (again.step, again.weights) == (3, done.weights)
    assert again.proven
    assert done.weights == info["saved"]["weights"]
    assert done.model == info["model"]["id"]
    assert done.size == (tmp_path / "new" / "my.jsonl").stat().st_size


def test_weights_on_record_are_not_rebuilt_for_a_journal_unless_asked(run, tmp_path):
    quick, asked = Notes(), Notes()

    export_journal(find_source(run), "last", tmp_path / "quick.jsonl", quick)
    export_journal(find_source(run), "last", tmp_path / "asked.jsonl", asked, from_base=True)

    assert quick.phases == []
    assert [steps[:2] for steps in asked.rebuilds] == [(0, 3)]
    assert (tmp_path / "quick.jsonl").read_bytes() == (tmp_path / "asked.jsonl").read_bytes()


@pytest.mark.parametrize("step", [0, 2])
def test_a_journal_is_exported_up_to_any_step_also_of_a_journal(step, run, tmp_path):
    export_journal(find_source(run), "last", tmp_path / "whole.jsonl", Notes())

    one = export_journal(find_source(run), str(step), tmp_path / "one.jsonl", Notes())
    two = find_source(str(tmp_path / "whole.jsonl"))
    export_journal(two, str(step), tmp_path / "two.jsonl", Notes())

    found = find_source(str(tmp_path / "one.jsonl"))
    again = rebuild(found, "last", Notes())
    assert found.record.last == again.step == step
    assert again.weights == one.weights == rebuild(find_source(run), str(step), Notes()).weights
    assert again.proven
    assert find_source(str(tmp_path / "two.jsonl")).weights_of(step) == one.weights


@pytest.mark.parametrize(("best", "expected"), [(1, 1), (3, 0)])
def test_a_journal_names_the_best_step_among_its_own(best, expected, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    lines = [
        {"step": step, "task": "conciseness", "role": "target", "reward": float(step == best)}
        for step in range(4)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "run" / "evals.jsonl").write_text(text)

    export_journal(find_source(str(tmp_path / "run")), "2", tmp_path / "my.jsonl", Notes())

    assert find_source(str(tmp_path / "my.jsonl")).best == expected


def test_a_journal_without_evaluations_names_no_best_step(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("evals.jsonl"))

    export_journal(find_source(str(tmp_path / "run")), "2", tmp_path / "my.jsonl", Notes())

    found = find_source(str(tmp_path / "my.jsonl"))
    assert found.best is None
    with pytest.raises(RunError, match="does not say which step is the best"):
        rebuild(found, "best", Notes())
