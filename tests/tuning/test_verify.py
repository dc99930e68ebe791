import json
import shutil
from contextlib import suppress
from dataclasses import replace

import pytest
from damage import cut_off, flip_the_last_bit
from tiny_models import tiny_llama, write_model
from tiny_runs import Notes, a_recipe, never

from esft.engine.journal import Journal
from esft.engine.journal_read import read_journal
from esft.errors import RunError
from esft.files import append_line
from esft.tuning.rebuild import RebuildOptions
from esft.tuning.start import resume_tuning, run_tuning
from esft.tuning.verify import checks_of

EVERY = ("journal.jsonl", "metrics.jsonl", "evals.jsonl", "drift/", "model/", "rebuild")


class KilledAfter(Notes):
    """Ends a run without a word once a step is recorded."""

    def __init__(self, step):
        super().__init__()
        self._last = step

    def step(self, metrics, left):
        if metrics.step == self._last:
            raise KeyboardInterrupt


def tuned(folder, notes=None, stop=never, **search):
    recipe = a_recipe(folder, **search)
    recipe = replace(recipe, run=replace(recipe.run, snapshot_every=1))
    with suppress(KeyboardInterrupt):
        run_tuning(recipe, notes or Notes(), stop)
    return folder / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tuned(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    return tuned(tmp_path_factory.mktemp("killed"), KilledAfter(2))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run that differs in its seed."""
    return tuned(tmp_path_factory.mktemp("other"), seed=2)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to damage."""
    return shutil.copytree(finished, tmp_path / "run")


def checked(path, quick=False, **options):
    """Return the checks of a run or journal, by what they check."""
    options = RebuildOptions(from_base=not quick, **options)
    return {check.what: check for check in checks_of(path, Notes(), options)}


def with_result(checks, result):
    return [what for what, check in checks.items() if check.result == result]


def only_failure(checks):
    (failed,) = with_result(checks, "failed")
    return failed, checks[failed].text


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
    tuned(tmp_path, stop=lambda: True)
    with pytest.raises(KeyboardInterrupt):
        resume_tuning(tmp_path / "run", KilledAfter(2), never)

    checks = checked(tmp_path / "run")

    assert with_result(checks, "ok") == list(EVERY)
    assert checks["model/"].text == "has the weights and the other files of step 1, as recorded"
    assert checks["rebuild"].text.endswith("step 1, as recorded; goes through to step 2")


def without_its_last_steps(lines):
    return lambda run, other: edit(run / "journal.jsonl", lambda whole: whole[:lines])


def of_another_run(file):
    return lambda run, other: shutil.copy(other / file, run / file)


def flipped(file):
    return lambda run, other: flip_a_byte_in_the_middle(run / file)


def emptied(file):
    return lambda run, other: (run / "model" / file).write_text("{}")


def named_step_7(run, other):
    shutil.copy(run / "drift/step-000003.safetensors", run / "drift/step-000007.safetensors")


@pytest.mark.parametrize(
    ("damage", "check", "text"),
    [
        (flipped("journal.jsonl"), "journal.jsonl", "is not as it was written"),
        (flipped("drift/step-000002.safetensors"), "drift/", "000002.safetensors is damaged"),
        (flipped("model/model.safetensors"), "model/", "expected"),
        (emptied("config.json"), "model/", "config.json differ, or are not there"),
        (emptied("tokenizer.json"), "model/", "tokenizer.json differ, or are not there"),
        (emptied("chat_template.jinja"), "model/", "chat_template.jinja differ, or are not there"),
        (emptied("generation_config.json"), "model/", "generation_config.json differ, or are not"),
        (lambda run, _: (run / "model/generation_config.json").unlink(), "model/", "generation_co"),
        (lambda run, _: (run / "model/vocab.txt").write_text("a"), "model/", "vocab.txt differ"),
        (without_its_last_steps(1), "journal.jsonl", "has 0 steps, expected 3, which were saved"),
        (without_its_last_steps(3), "journal.jsonl", "has 2 steps, expected 3, which were saved"),
        (of_another_run("journal.jsonl"), "journal.jsonl", "is another journal"),
        (of_another_run("drift/step-000003.safetensors"), "drift/", "belongs to another journal"),
        (named_step_7, "drift/", "is of step 7, expected 1 to 3"),
        (lambda run, _: (run / "recipe.toml").write_text("[search"), "rebuild", "recipe.toml"),
        (lambda run, _: shutil.rmtree(run / "model"), "model/", "is not there"),
        (lambda run, _: shutil.rmtree(run / "evals"), "evals.jsonl", "has 0 rows and evals.jsonl"),
        (lambda run, _: edit(run / "evals.jsonl", lambda _: "[]\n"), "evals.jsonl", "it is []"),
        (lambda run, _: edit(run / "metrics.jsonl", lambda _: "3\n"), "metrics.jsonl", "it is 3"),
    ],
)
def test_damage_fails_the_check_of_its_file_alone(run, other, damage, check, text):
    damage(run, other)

    checks = checked(run, quick=True)

    assert tuple(checks) == EVERY
    failed, problem = only_failure(checks)
    assert failed == check
    assert text in problem
    if problem.endswith("model is not there"):
        assert checks[check].hint == f"esft replay {run} --at 3 --out DIR writes it again"


def test_without_a_journal_what_needs_it_is_not_applicable(run):
    (run / "journal.jsonl").unlink()

    checks = checked(run)

    assert only_failure(checks)[0] == "journal.jsonl"
    assert with_result(checks, "not applicable") == ["drift/", "rebuild"]


def test_weights_that_run_json_does_not_claim_fail_model_and_rebuild(run):
    saved = json.loads((run / "run.json").read_text())["saved"]
    change_info(run, saved=saved | {"weights": "0" * 64})

    checks = checked(run)

    assert with_result(checks, "failed") == ["model/", "rebuild"]


def test_a_run_json_that_cannot_be_read_or_lacks_a_value_is_refused(run):
    change_info(run, saved={"step": 3})
    with pytest.raises(RunError, match=r"run\.json is not as .*: saved\.weights is missing"):
        checked(run)

    (run / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        checked(run)


@pytest.mark.parametrize(
    ("model", "problem"), [("other", "another base model"), ("gone", "gone: no such file")]
)
def test_another_base_model_or_none_fails_the_rebuild_alone(finished, tmp_path, model, problem):
    write_model(tmp_path / "other", tiny_llama(seed=9))

    failed, text = only_failure(checked(finished, model=str(tmp_path / model)))

    assert failed == "rebuild"
    assert problem in text


@pytest.fixture
def mailed(finished, tmp_path):
    """A journal that was exported: with a line that says what it must rebuild."""
    file = tmp_path / "mailed.jsonl"
    shutil.copy(finished / "journal.jsonl", file)
    journal = Journal(file, read_journal(file).checksum, append_line)
    saved = json.loads((finished / "run.json").read_text())["saved"]
    return file, lambda best=0, weights=saved["weights"]: journal.end(3, weights, best)


@pytest.mark.parametrize(
    ("closed", "text"),
    [
        (True, "makes the weights of step 3, as recorded"),
        (False, "goes through to step 3; there is no end line to compare it with"),
    ],
)
def test_a_journal_alone_is_checked_line_by_line_and_rebuilt(mailed, closed, text):
    file, end = mailed
    if closed:
        end()

    checks = checked(file)

    assert with_result(checks, "ok") == ["journal", "rebuild"]
    assert checks["rebuild"].text == text


def test_a_journal_that_rebuilds_other_weights_than_it_claims_fails(mailed):
    mailed[1](weights="0" * 64)

    assert only_failure(checked(mailed[0]))[0] == "rebuild"


@pytest.mark.parametrize("damage", [flip_the_last_bit, cut_off])
def test_a_damaged_journal_alone_fails_and_nothing_else_is_applicable(mailed, damage):
    damage(mailed[0])

    checks = checked(mailed[0])

    assert only_failure(checks)[0] == "journal"
    assert with_result(checks, "not applicable") == ["rebuild"]
