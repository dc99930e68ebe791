"""A run goes on where it stopped, if everything is as it was."""

import json
import platform
import shutil
from dataclasses import replace

import pytest
import torch
from damage import cut_off, flip_the_last_bit
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_llama, write_model
from tiny_runs import Notes, a_recipe, info_of, jsonl, never, write_arc

from esft.engine.journal_read import read_journal
from esft.errors import AnchorError, JournalError, RunError
from esft.models.load import load_model
from esft.recipe.settings import Run, TaskSettings
from esft.runs.names import is_locked, locked
from esft.tuning.rebuild import RebuildOptions, Source, rebuild
from esft.tuning.start import Finished, resume_tuning, run_tuning
from esft.tuning.verify import FAILED, checks_of


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


def stopped_after(folder, done, name="run", **recipe):
    """Return a run on a tiny model that was stopped after some of its steps."""
    recipe = replace(a_recipe(folder, **({"steps": 5} | recipe)), run=Run(dir=str(folder / name)))
    notes = Notes()
    run_tuning(recipe, notes, lambda: len(notes.steps) >= done)
    return folder / name


def resumed(run):
    notes = Notes()
    return resume_tuning(run, notes, never), notes


def told(notes):
    """What is out of the ordinary with the resuming, not with a step."""
    return [notice for notice in notes.notices if not notice.startswith("step ")]


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of five steps: stopped after 2 and after 3 of them, and never."""
    folder = tmp_path_factory.mktemp("runs")
    return {done: stopped_after(folder, done, f"stopped-{done}") for done in (2, 3, 5)}


@pytest.fixture
def copy_of(runs, tmp_path):
    """Return a copy of one of them, to go on with."""
    return lambda done: shutil.copytree(runs[done], tmp_path / "run")


@pytest.mark.parametrize(
    ("dtype", "anchor", "noise"),
    [
        (torch.float32, {"drift": "float32"}, {}),
        (torch.float16, {"drift": "float16"}, {"anneal": "cosine", "sigma_end": 0.5}),
        (torch.bfloat16, {"drift": "int8"}, {}),
        (torch.bfloat16, {"drift": "float16"}, {"noise": "lowrank", "rank": 2}),
        (torch.bfloat16, {"drift": "int8", "move": "ema", "tau": 0.3, "norm": "l2"}, {}),
        (torch.float32, {"move": "ema", "tau": 0.3}, {"anneal": "linear"}),
    ],
)
def test_a_run_stopped_and_resumed_is_the_one_never_stopped(tmp_path, dtype, anchor, noise):
    recipe = {"model": tiny_llama(dtype=dtype), "anchor": {"awd": 0.5} | anchor, **noise}
    whole = stopped_after(tmp_path, 5, "whole", **recipe)
    run = stopped_after(tmp_path, 2, **recipe)
    assert (info_of(run)["state"], info_of(run)["saved"]["step"]) == ("stopped", 2)
    assert [line["step"] for line in jsonl(run / "evals.jsonl")] == [0, 2]

    outcome, notes = resumed(run)

    assert (outcome.steps, outcome.stopped) == (5, False)
    assert (run / "journal.jsonl").read_bytes() == (whole / "journal.jsonl").read_bytes()
    assert weights(run) == weights(whole)
    assert info_of(run)["state"] == "finished"
    assert [step.step for step in notes.steps] == [3, 4, 5]
    assert [line["step"] for line in jsonl(run / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert outcome.drift == jsonl(whole / "metrics.jsonl")[-1]["drift"]
    assert outcome.forecast == jsonl(whole / "metrics.jsonl")[-1]["forecast"]
    anchors = [[line.get("anchor") for line in jsonl(r / "metrics.jsonl")] for r in (run, whole)]
    assert anchors[0] == anchors[1]
    assert all(bool(norm) == ("move" in anchor) for norm in anchors[0])


def test_a_run_with_an_anchor_that_moves_is_rebuilt_from_its_journal_alone(tmp_path):
    anchor = {"awd": 0.5, "norm": "l2", "move": "ema", "tau": 0.3, "drift": "int8"}
    run, still = (
        stopped_after(tmp_path, 5, name, anchor=anchor | more)
        for name, more in (("run", {}), ("still", {"tau": 0.0}))
    )
    none = stopped_after(tmp_path, 5, "none", anchor={"awd": 0.5, "norm": "l2", "drift": "int8"})
    assert weights(still) == weights(none)
    assert weights(run) != weights(none)

    rebuilt = rebuild(Source(record=read_journal(run / "journal.jsonl"), run=None), "5", Notes())

    assert rebuilt.weights == info_of(run)["saved"]["weights"]
    assert rebuilt.base.drift.anchor.norm() == jsonl(run / "metrics.jsonl")[-1]["anchor"]
    found = {check.what: check.result for check in checks_of(run, Notes(), RebuildOptions())}
    assert (found["rebuild"], found["drift/"]) == ("ok", "ok")
    assert read_journal(run / "journal.jsonl").header["tau"] == 0.3
    assert (run / "journal.jsonl").read_text().startswith('{"format":3')


def test_a_run_with_noise_of_low_rank_leaves_norms_alone_and_is_rebuilt_from_its_journal(tmp_path):
    recipe = a_recipe(tmp_path, noise="lowrank", rank=2)
    run, base = tmp_path / "run", load_model(recipe.model.id, device="cpu").model
    notes = Notes()

    run_tuning(recipe, notes, never)

    assert dict(notes.plans[0])["noise"].startswith("of rank 2 of matrices")
    found = {check.what: check.result for check in checks_of(run, Notes(), RebuildOptions())}
    assert found["rebuild"] == "ok"
    assert FAILED not in found.values()
    tuned = load_model(str(run / "model"), device="cpu").model
    same = {
        name for name, weight in base.named_parameters() if weight.equal(tuned.get_parameter(name))
    }
    assert same == {name for name, weight in base.named_parameters() if weight.dim() < 2}
    header = json.loads((run / "journal.jsonl").read_text().splitlines()[0])
    assert (header["noise_version"], header["rank"]) == (2, 2)


def test_an_annealed_run_is_rebuilt_with_the_alpha_of_each_step_and_ends_where_it_was_to(tmp_path):
    run = stopped_after(tmp_path, 3, steps=3, anneal="linear", sigma_end=0.5, alpha_end=0.25)

    lines = jsonl(run / "journal.jsonl")[1:]
    assert [line["alpha"] for line in lines] == pytest.approx([0.02, 0.0125, 0.005])
    assert [line["sigma"] for line in lines] == pytest.approx([0.02, 0.015, 0.01])
    measured = jsonl(run / "metrics.jsonl")
    assert [line["noise"] for line in measured] == pytest.approx([1e-4, 5.625e-5, 2.5e-5])
    assert measured[-1]["drift"] == pytest.approx(measured[-1]["forecast"], rel=0.02)
    shutil.rmtree(run / "drift")
    found = {check.what: check.text for check in checks_of(run, Notes(), RebuildOptions())}
    assert found["rebuild"] == "makes the weights of step 3, as recorded"
    with pytest.raises(RunError, match=r"search\.steps is 4, the run has 3"):
        resume_tuning(run, Notes(), never, steps=4)


def test_without_a_good_snapshot_the_steps_are_made_again_from_the_base(runs, copy_of):
    whole, run = runs[5], copy_of(3)
    (snapshot,) = (run / "drift").iterdir()
    data = bytearray(snapshot.read_bytes())
    data[-5] ^= 1
    snapshot.write_bytes(data)

    _, notes = resumed(run)

    assert "step-000003.safetensors is damaged" in notes.notices[0]
    assert notes.rebuilds[0][:2] == (0, 3)
    assert notes.progressed[:3] == [("rebuilding step", step, 3) for step in (1, 2, 3)]
    assert weights(run) == weights(whole)


def test_what_stands_in_the_way_is_cleared(runs, copy_of):
    whole, run = runs[5], copy_of(3)
    journal = run / "journal.jsonl"
    journal.write_bytes((whole / "journal.jsonl").read_bytes()[: journal.stat().st_size + 99])
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "rew')

    _, notes = resumed(run)

    assert told(notes) == ["the journal's last line was cut off: step 4 is made again"]
    assert journal.read_bytes() == (whole / "journal.jsonl").read_bytes()
    assert weights(run) == weights(whole)
    assert [line["step"] for line in jsonl(run / "evals.jsonl")] == [0, 3, 5]


def test_a_step_whose_metrics_were_lost_has_what_the_journal_tells(runs, copy_of):
    whole, run = runs[5], copy_of(3)
    (run / "drift" / "step-000003.safetensors").unlink()
    (run / "metrics.jsonl").write_text(
        "".join((run / "metrics.jsonl").read_text().splitlines(keepends=True)[:2])
    )

    resumed(run)

    found, expected = jsonl(run / "metrics.jsonl"), jsonl(whole / "metrics.jsonl")
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5]
    assert found[2]["replayed"]
    for key in ("reward_mean", "reward_best", "drift", "forecast", "members"):
        assert found[2][key] == pytest.approx(expected[2][key], rel=1e-6)


def test_a_finished_run_says_so_and_does_nothing(copy_of):
    run = copy_of(5)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    result, notes = resumed(run)

    assert result == Finished(run_path=str(run), model_path=str(run / "model"), steps=5)
    assert notes.phases == [f"loading {run / 'model'}"]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_that_keeps_no_model_is_otherwise_the_same_and_makes_it_on_request(tmp_path, copy_of):
    whole = copy_of(5)
    recipe = a_recipe(tmp_path / "lean", steps=5)
    lean = replace(recipe, run=Run(dir=str(tmp_path / "lean" / "run"), keep_model=False))

    outcome = run_tuning(lean, Notes(), never)

    run, files = tmp_path / "lean" / "run", {file.name for file in whole.iterdir()}
    assert outcome.model_path is None
    assert {file.name for file in run.iterdir()} == files - {"model"}
    assert info_of(run)["saved"]["weights"] == info_of(whole)["saved"]["weights"]
    checks = {check.what: check for check in checks_of(run, Notes(), RebuildOptions())}
    assert {name for name, check in checks.items() if check.result != "ok"} == {"model/"}
    assert checks["rebuild"].text.startswith("makes the weights of step 5, as recorded")
    assert resumed(run)[0] == Finished(run_path=str(run), model_path=None, steps=5)
    edit(run / "recipe.toml", "keep_model = false", "keep_model = true")
    assert resumed(run)[0].model_path == str(run / "model")
    assert weights(run) == weights(whole)
    edit(run / "recipe.toml", "keep_model = true", "keep_model = false")
    resumed(run)
    assert not (run / "model").exists()


def test_a_model_of_an_earlier_step_goes_where_none_is_kept_any_more(copy_of):
    run = copy_of(3)
    edit(run / "recipe.toml", "keep_model = true", "keep_model = false")

    outcome, _ = resumed(run)

    assert outcome.model_path is None
    assert not (run / "model").exists()
    assert info_of(run)["saved"]["step"] == 5


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("", shutil.rmtree),
        ("model.safetensors", flip_the_last_bit),
        ("model.safetensors", cut_off),
        ("tokenizer.json", cut_off),
    ],
)
def test_a_finished_runs_model_that_is_gone_or_another_is_made_again(file, change, runs, copy_of):
    run = copy_of(5)
    change(run / "model" / file)

    result, notes = resumed(run)
    _, again = resumed(run)

    assert isinstance(result, Finished)
    assert notes.notices[0].endswith("; the model is made again")
    assert again.notices == []
    assert weights(run) == weights(runs[5])
    assert info_of(run) == info_of(runs[5])


def test_a_finished_run_whose_journal_lost_lines_is_no_finished_run(copy_of):
    run = copy_of(5)
    whole = (run / "journal.jsonl").read_bytes()
    (run / "journal.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))

    with pytest.raises(JournalError, match=r"has 3 steps, expected 5, which were saved"):
        resumed(run)


def test_a_run_whose_steps_were_raised_goes_on_beyond_its_end(tmp_path, runs):
    run = stopped_after(tmp_path, 3, steps=3)

    assert isinstance(resumed(run)[0], Finished)
    edit(run / "recipe.toml", "steps = 3", "steps = 5")
    outcome, notes = resumed(run)

    assert (outcome.steps, outcome.planned) == (5, 5)
    assert told(notes) == []
    assert weights(run) == weights(runs[5])
    assert isinstance(resumed(run)[0], Finished)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("sigma = 0.02", "sigma = 0.03", r"search.sigma is 0.03, the run has 0.02"),
        ("awd = 0.0", "awd = 0.5", r"anchor.awd is 0.5, the run has 0.0"),
        ("train = 6", "train = 5", r"task.train is 5, the run has 6"),
        ("steps = 5", "steps = 4", r"search.steps is 4, the run has 5"),
        ("# include =", 'include = ["*mlp*"] #', "model.include is"),
    ],
)
def test_any_other_change_of_the_recipe_is_refused_by_name(old, new, problem, copy_of):
    run = copy_of(2)
    edit(run / "recipe.toml", old, new)

    with pytest.raises(RunError, match=f"is not as it was: {problem}") as caught:
        resumed(run)

    assert "start a new run" in caught.value.hint


@pytest.mark.parametrize(
    "change", [('store = "auto"', 'store = "disk"'), ("snapshot_every = 25", "snapshot_every = 1")]
)
def test_settings_that_change_no_bit_may_change(tmp_path, change, monkeypatch, runs, copy_of):
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "cache"))
    whole, run = runs[5], copy_of(2)
    edit(run / "recipe.toml", *change)

    _, notes = resumed(run)

    assert told(notes) == []
    assert weights(run) == weights(whole)


def test_a_changed_base_model_is_refused(tmp_path):
    run = stopped_after(tmp_path, 2)
    write_model(tmp_path / "base", tiny_llama(seed=1))

    with pytest.raises(RunError, match=r"base model is sha256 \w+\.\.\., the run has sha256"):
        resumed(run)

    assert read_journal(run / "journal.jsonl").last == 2


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("What is 3?", "What is three?", r"rows \w+ is \d rows of hash \w+, the run has \d rows"),
        ('"abc"', '"abd"', r"file own.jsonl is sha256 \w+\.\.\., the run has sha256"),
    ],
)
def test_changed_rows_are_refused(tmp_path, old, new, problem):
    file = tmp_path / "own.jsonl"
    rows = [{"prompt": f"What is {n}?", "answer": "abc"} for n in range(11)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = a_recipe(tmp_path, steps=5)
    recipe = replace(base, task=replace(base.task, name=str(file), grader="exact"))
    run_tuning(recipe, Notes(), lambda: True)

    edit(file, old, new)

    with pytest.raises(RunError, match=problem):
        resumed(tmp_path / "run")


@pytest.mark.parametrize(("split", "rows"), [("train", "train"), ("validation", "holdout")])
def test_other_answers_to_the_same_questions_are_refused(tmp_path, split, rows):
    data = write_arc(tmp_path / "data", rows=6)
    base = a_recipe(tmp_path, steps=5)
    task = TaskSettings(name="arc-easy", train=6, holdout=5, data_dir=str(data))
    run_tuning(replace(base, task=task), Notes(), lambda: True)

    edit(data / f"arc_easy.{split}.jsonl", '"answerKey": "2"', '"answerKey": "1"')

    with pytest.raises(RunError, match=rf"rows {rows} is \d rows of hash \w+, the run has \d rows"):
        resumed(tmp_path / "run")


def test_another_noise_is_refused(monkeypatch, copy_of):
    run = copy_of(2)
    monkeypatch.setattr("esft.tuning.run_info.NOISE_VERSION", 2)

    with pytest.raises(RunError, match="noise_version is 2, the run has 1"):
        resumed(run)


def test_the_batch_that_was_found_to_fit_is_kept_also_below_that_of_the_recipe(tmp_path):
    run = stopped_after(tmp_path, 2, task={"batch": 8})
    info = info_of(run)
    assert info["batches"] == [[0, 8]]
    (run / "run.json").write_text(json.dumps(info | {"batches": [[0, 8], [1, 2]]}))

    _, notes = resumed(run)

    assert [step.batch for step in notes.steps] == [2, 2, 2]


def test_the_batch_is_found_once_before_all_else_and_never_again(tmp_path, monkeypatch):
    sizes = iter([3, 5])
    monkeypatch.setattr("esft.tuning.session.find_batch", lambda *args: next(sizes))
    run = stopped_after(tmp_path, 2)

    _, notes = resumed(run)

    assert info_of(run)["batches"] == [[0, 3]]
    assert [step.batch for step in notes.steps] == [3, 3, 3]


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("run.json", '"threads": ', '"threads": 1000000', "threads is 1000000"),
        ("run.json", '"batches": [', '"batches": [[0, 0], ', "a size in batches is 0"),
        ("evals.jsonl", '"n": 5', '"n": 3', "has 3 rows and evals.jsonl says 3, expected 5"),
        ("evals.jsonl", '"step": 0', '"step": "0"', "line 1 .* step is '0', expected a whole"),
        ("metrics.jsonl", '"step": 1', '"step": null', "line 1 .* step is None, expected a whole"),
    ],
)
def test_an_edited_record_is_refused_by_name(copy_of, file, old, new, problem):
    run = copy_of(2)
    edit(run / file, old, new)
    for rows in (run / "evals").iterdir():
        rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:3]))

    with pytest.raises(RunError, match=problem):
        resumed(run)


def test_a_damaged_journal_is_refused_and_left_alone(copy_of):
    run = copy_of(3)
    edit(run / "journal.jsonl", '"step":2', '"step":3')
    before = (run / "journal.jsonl").read_bytes()

    with pytest.raises(JournalError, match="line 3 is not as it was written"):
        resumed(run)

    assert (run / "journal.jsonl").read_bytes() == before


def test_a_run_goes_on_from_another_folder_and_without_its_variables(tmp_path, monkeypatch, runs):
    monkeypatch.chdir(tmp_path)
    whole = runs[5]
    recipe = a_recipe(tmp_path, steps=5)
    recipe = replace(
        recipe, model=replace(recipe.model, id="base"), run=Run(dir=str(tmp_path / "run"))
    )
    notes = Notes()
    run_tuning(recipe, notes, lambda: len(notes.steps) >= 2)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    resumed(tmp_path / "run")

    assert weights(tmp_path / "run") == weights(whole)


def test_other_versions_and_another_device_are_said_in_one_line(copy_of):
    run, device = copy_of(2), f"cpu ({platform.machine()})"
    edit(run / "run.json", f'"torch": "{torch.__version__}"', '"torch": "1.0"')
    edit(run / "run.json", f'"device": "{device}"', '"device": "cuda (NVIDIA H100)"')

    _, notes = resumed(run)

    assert told(notes) == [
        f"torch {torch.__version__} (was 1.0), device {device} (was cuda (NVIDIA H100)): from here "
        "on results can differ in their last bits"
    ]


def test_two_processes_cannot_work_on_one_run(copy_of):
    run = copy_of(2)

    with locked(run):
        assert is_locked(run)
        with pytest.raises(RunError, match=r"run .* is in use: another process"):
            resumed(run)
    assert not is_locked(run)

    resumed(run)


def test_a_base_file_that_changes_while_it_is_in_use_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "cache"))
    recipe = a_recipe(tmp_path, steps=5, anchor={"store": "disk"})
    notes = Notes()

    def touch(done, total, left):
        if len(notes.steps) == 2:
            (tmp_path / "base" / "model.safetensors").touch()

    notes.members = touch
    with pytest.raises(AnchorError, match=r"model.safetensors changed while its weights were"):
        run_tuning(recipe, notes, never)

    assert read_journal(tmp_path / "run" / "journal.jsonl").last == 2


@given(cut=st.integers(0, 2**16))
@settings(max_examples=8, deadline=None)
def test_any_prefix_of_the_journal_is_resumed_from_its_last_whole_step_or_refused(
    tmp_path_factory, runs, cut
):
    run = tmp_path_factory.mktemp("prefix") / "run"
    shutil.copytree(runs[5], run)
    info = info_of(run)
    del info["saved"]  # as a run is that was killed before it saved a model
    (run / "run.json").write_text(json.dumps(info | {"state": "running"}))
    whole = (run / "journal.jsonl").read_bytes()
    (run / "journal.jsonl").write_bytes(whole[: cut % (len(whole) + 1)])
    lines = (run / "journal.jsonl").read_bytes().count(b"\n")

    if lines == 0:
        with pytest.raises(JournalError):
            resumed(run)
        return
    _, notes = resumed(run)

    assert [step.step for step in notes.steps] == list(range(lines, 6))
    assert (run / "journal.jsonl").read_bytes() == whole
    assert weights(run) == weights(runs[5])
