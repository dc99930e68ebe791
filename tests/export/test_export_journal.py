"""An exported journal: what it rebuilds, and what it says of that."""

import json
import shutil

import pytest
from records import a_score
from tiny_runs import Notes

from esft.errors import RunError
from esft.export.journal import export_journal
from esft.rollout.typed import to_json
from esft.tuning.rebuild import RebuildOptions, find_source, rebuild


def exported(source, at, out, watcher=None, **options):
    source, watcher = find_source(str(source)), watcher or Notes()
    return export_journal(source, at, out, watcher, RebuildOptions(**options))


def rebuilt(source, at="last"):
    return rebuild(find_source(str(source)), at, Notes())


def test_an_exported_journal_rebuilds_the_step_and_says_what_it_must_be(run, tmp_path):
    done = exported(run, "last", tmp_path / "new" / "my.jsonl")

    again = rebuilt(tmp_path / "new" / "my.jsonl")
    info = json.loads((run / "run.json").read_text())
    assert (again.step, again.weights, again.proven) == (3, done.weights, True)
    assert done.weights == info["saved"]["weights"]
    assert done.model == info["model"]["id"]
    assert done.size == (tmp_path / "new" / "my.jsonl").stat().st_size


def test_weights_on_record_are_not_rebuilt_for_a_journal_unless_asked(run, tmp_path):
    quick, asked = Notes(), Notes()

    exported(run, "last", tmp_path / "quick.jsonl", quick)
    exported(run, "last", tmp_path / "asked.jsonl", asked, from_base=True)

    assert quick.phases == []
    assert [steps[:2] for steps in asked.rebuilds] == [(0, 3)]
    assert (tmp_path / "quick.jsonl").read_bytes() == (tmp_path / "asked.jsonl").read_bytes()


@pytest.mark.parametrize("step", [0, 2])
def test_a_journal_is_exported_up_to_any_step_also_of_a_journal(step, run, tmp_path):
    exported(run, "last", tmp_path / "whole.jsonl")

    one = exported(run, str(step), tmp_path / "one.jsonl")
    two = exported(tmp_path / "whole.jsonl", str(step), tmp_path / "two.jsonl")

    again = rebuilt(tmp_path / "one.jsonl")
    assert (again.source.record.last, again.step, again.proven) == (step, step, True)
    assert again.weights == one.weights == two.weights == rebuilt(run, str(step)).weights


@pytest.mark.parametrize(("best", "expected"), [(1, 1), (3, 0), (None, None)])
def test_a_journal_names_the_best_step_among_its_own(best, expected, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    steps = () if best is None else range(4)
    lines = [to_json(a_score(step, reward=float(step == best))) for step in steps]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "run" / "evals.jsonl").write_text(text)

    exported(tmp_path / "run", "2", tmp_path / "my.jsonl")

    assert find_source(str(tmp_path / "my.jsonl")).best == expected
    if expected is None:
        with pytest.raises(RunError, match="does not say which step is the best"):
            rebuilt(tmp_path / "my.jsonl", "best")
