import json
import shutil
from dataclasses import replace

import pytest
from damage import cut_off, flip_the_last_bit
from tiny_models import tiny_llama, write_model
from tiny_runs import Notes, a_recipe, never

from esft.engine.journal import Journal
from esft.engine.journal_read import read_journal
from esft.errors import RunError
from esft.files import append_line
from esft.runs.names import locked
from esft.tuning.rebuild import RebuildOptions
from esft.tuning.resume import resume_tuning
from esft.tuning.start import run_tuning
from esft.tuning.verify import checks_of, find_target

EVERY = ("journal.jsonl", "drift/", "model/", "rebuild")


class KilledAfter(Notes):
    """Ends a run without a word once a step is recorded."""

    def __init__(self, step):
        super().__init__()
        self._last = step

    def step(self, metrics, steps, seconds_left):
        if metrics.step == self._last:
            raise KeyboardInterrupt


def recipe_of(folder, **search):
    recipe = a_recipe(folder, **search)
    return replace(recipe, run=replace(recipe.run, snapshot_every=1))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run_tuning(recipe_of(folder), Notes(), never)
    return folder / "run"


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(KeyboardInterrupt):
        run_tuning(recipe_of(folder), KilledAfter(2), never)
    return folder / "run"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run that differs in its seed."""
    folder = tmp_path_factory.mktemp("other")
    run_tuning(recipe_of(folder, seed=2), Notes(), never)
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to damage."""
    return shutil.copytree(finished, tmp_path / "run")


def checked(path, notes=None, quick=False, **options):
    """Return the checks of a run or journal, by what they check."""
    options = RebuildOptions(from_base=not quick, **options)
    return {check.what: check for check in checks_of(path, notes or Notes(), options)}


def with_result(checks, result):
    return [what for what, check in checks.items() if check.result == result]


def only_failure(checks):
    (what,) = with_result(checks, "failed")
    return what, checks[what].text


def edit(path, change):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(change(lines)))


def change_info(run, **changes):
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | changes))


def flip_a_byte_in_the_middle(path):
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def test_every_check_of_a_finished_run_is_ok(finished):
    checks = checked(finished)

    assert tuple(checks) == EVERY
    assert with_result(checks, "ok") == list(EVERY)
    assert checks["drift/"].text == "good and of this journal: step 2, 3"


@pytest.mark.parametrize(("quick", "since"), [(False, 0), (True, 2)])
def test_the_rebuild_makes_every_step_from_the_base_or_quickly_from_a_snapshot(run, quick, since):
    (run / "drift" / "step-000003.safetensors").unlink()
    notes = Notes()

    checks = checked(run, notes, quick=quick)

    assert with_result(checks, "ok") == list(EVERY)
    assert [told[:2] for told in notes.rebuilds] == [(since, 3)]


def test_of_a_killed_run_the_model_is_not_applicable_and_the_rebuild_goes_through(killed):
    checks = checked(killed)

    assert with_result(checks, "failed") == []
    assert with_result(checks, "not applicable") == ["model/"]
    assert checks["rebuild"].text.startswith("goes through to step 2")


def test_a_last_line_that_was_cut_off_is_told_while_the_run_is_not_finished(killed, tmp_path):
    run = shutil.copytree(killed, tmp_path / "run")
    with open(run / "journal.jsonl", "a") as lines:
        lines.write('{"step":')

    checks = checked(run, quick=True)

    assert with_result(checks, "failed") == []
    assert "last line was cut off" in checks["journal.jsonl"].text


def test_steps_made_after_the_model_was_saved_go_through_too(tmp_path):
    run_tuning(recipe_of(tmp_path), Notes(), stop=lambda: True)
    with pytest.raises(KeyboardInterrupt):
        resume_tuning(tmp_path / "run", KilledAfter(2), never)

    checks = checked(tmp_path / "run")

    assert with_result(checks, "ok") == list(EVERY)
    assert checks["model/"].text == "has the weights of step 1, as recorded"
    assert checks["rebuild"].text.endswith("step 1, as recorded; goes through to step 2")


@pytest.mark.parametrize(
    ("file", "check", "text"),
    [
        ("journal.jsonl", "journal.jsonl", "is not as it was written"),
        ("drift/step-000002.safetensors", "drift/", "step-000002.safetensors is damaged"),
        ("model/model.safetensors", "model/", "expected"),
    ],
)
def test_a_flipped_byte_fails_the_check_of_its_file_alone(run, file, check, text):
    flip_a_byte_in_the_middle(run / file)

    checks = checked(run)

    assert tuple(checks) == EVERY
    what, found = only_failure(checks)
    assert what == check
    assert text in found


def test_without_a_journal_what_needs_it_is_not_applicable(run):
    (run / "journal.jsonl").unlink()

    checks = checked(run)

    assert only_failure(checks)[0] == "journal.jsonl"
    assert with_result(checks, "not applicable") == ["drift/", "rebuild"]


def test_without_a_recipe_the_rebuild_alone_fails(run):
    (run / "recipe.toml").write_text("[search")

    what, problem = only_failure(checked(run))

    assert what == "rebuild"
    assert "recipe.toml" in problem


@pytest.mark.parametrize("lines", [1, 3])
def test_a_journal_without_its_last_steps_is_not_the_one_that_was_saved(run, lines):
    edit(run / "journal.jsonl", lambda whole: whole[:lines])

    what, found = only_failure(checked(run))

    assert what == "journal.jsonl"
    assert f"has {lines - 1} step" in found
    assert "expected 3, which were saved, as run.json says" in found


def test_a_journal_of_another_run_is_found(run, other):
    shutil.copy(other / "journal.jsonl", run)

    what, found = only_failure(checked(run))

    assert what == "journal.jsonl"
    assert "is another journal" in found


def test_a_snapshot_of_another_run_is_found(run, other):
    shutil.copy(other / "drift/step-000003.safetensors", run / "drift")

    what, found = only_failure(checked(run))

    assert what == "drift/"
    assert "step-000003.safetensors belongs to another journal" in found


def test_a_snapshot_behind_the_journal_is_found(run):
    shutil.copy(run / "drift/step-000003.safetensors", run / "drift/step-000007.safetensors")

    what, found = only_failure(checked(run))

    assert what == "drift/"
    assert "is of step 7, expected 1 to 3" in found


def test_a_lost_model_is_found_and_the_command_that_makes_it_again_is_named(run):
    shutil.rmtree(run / "model")

    checks = checked(run)

    assert only_failure(checks)[0] == "model/"
    assert checks["model/"].hint == f"esft replay {run} --at 3 --out DIR writes it again"


def test_weights_that_run_json_does_not_claim_fail_model_and_rebuild(run):
    saved = json.loads((run / "run.json").read_text())["saved"]
    change_info(run, saved=saved | {"weights": "0" * 64})

    checks = checked(run)

    assert with_result(checks, "failed") == ["model/", "rebuild"]


def test_a_run_json_that_cannot_be_read_is_refused_and_one_without_a_value_fails(run):
    change_info(run, saved={"step": 3})
    assert "KeyError: 'journal'" in checked(run, quick=True)["journal.jsonl"].text

    (run / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        checked(run)


def test_another_base_model_fails_the_rebuild_alone(finished, tmp_path):
    other = write_model(tmp_path / "other", tiny_llama(seed=9))

    what, found = only_failure(checked(finished, model=str(other)))

    assert what == "rebuild"
    assert "another base model" in found


def test_a_base_model_that_is_not_there_fails_the_rebuild_alone(finished, tmp_path):
    what, found = only_failure(checked(finished, model=str(tmp_path / "gone")))

    assert what == "rebuild"
    assert found == f"model {tmp_path}/gone: no such file or folder"


@pytest.fixture
def mailed(finished, tmp_path):
    """A journal that was exported: with a line that says what it must rebuild."""
    file = tmp_path / "mailed.jsonl"
    shutil.copy(finished / "journal.jsonl", file)
    journal = Journal(file, read_journal(file).checksum, append_line)
    saved = json.loads((finished / "run.json").read_text())["saved"]
    return file, lambda best=0, weights=saved["weights"]: journal.end(3, weights, best)


def test_a_journal_alone_is_checked_line_by_line_and_rebuilt(mailed):
    file, end = mailed
    end()

    checks = checked(file)

    assert with_result(checks, "ok") == ["journal", "rebuild"]
    assert checks["rebuild"].text == "makes the weights of step 3, as recorded"


def test_a_journal_without_an_end_line_has_nothing_to_compare_with(mailed):
    checks = checked(mailed[0])

    assert with_result(checks, "ok") == ["journal", "rebuild"]
    assert "no end line to compare" in checks["rebuild"].text


def test_a_journal_that_rebuilds_other_weights_than_it_claims_fails(mailed):
    mailed[1](weights="0" * 64)

    assert only_failure(checked(mailed[0]))[0] == "rebuild"


@pytest.mark.parametrize("damage", [flip_the_last_bit, flip_a_byte_in_the_middle, cut_off])
def test_a_damaged_journal_alone_fails_and_nothing_else_is_applicable(mailed, damage):
    damage(mailed[0])

    checks = checked(mailed[0])

    assert only_failure(checks)[0] == "journal"
    assert with_result(checks, "not applicable") == ["rebuild"]


def test_a_run_that_a_process_works_on_is_refused(finished):
    with locked(finished), pytest.raises(RunError, match="is in use"):
        find_target(str(finished))

    assert find_target(str(finished)) == finished


def test_a_name_that_means_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        find_target(str(tmp_path / "none"))
