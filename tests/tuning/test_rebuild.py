"""The journal and the base model are the model: of any step, also without its run folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_llama, write_model
from tiny_runs import Notes, a_recipe, info_of, jsonl, never

from esft.engine.journal import Journal
from esft.engine.journal_read import read_journal
from esft.engine.weights import identity
from esft.errors import JournalError, RunError
from esft.files import append_line
from esft.models.save import save_model
from esft.recipe.settings import Prior, Run
from esft.runs.snapshots import Snapshots
from esft.tuning.rebuild import RebuildOptions, find_source, rebuild, step_of
from esft.tuning.start import run_tuning


def a_run(folder, **recipe):
    """Tune a tiny model for five steps, with a snapshot of steps 2 and 4; return its folder."""
    made = replace(
        a_recipe(folder, **({"steps": 5} | recipe)),
        prior=Prior(every=2),
        run=Run(dir=str(folder / "run"), snapshot_every=2),
    )
    run_tuning(made, Notes(), never)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return a_run(tmp_path_factory.mktemp("rebuild"), anchor={"awd": 0.5})


def saved(run):
    return info_of(run)["saved"]["weights"]


def rebuilt(name, at="last", **kwargs):
    notes = Notes()
    return rebuild(find_source(str(name)), at, notes, RebuildOptions(**kwargs)), notes


@pytest.mark.parametrize(
    ("dtype", "kept", "decay", "antithetic"),
    [
        (torch.float32, "float32", {}, False),
        (torch.float32, "int8", {"awd": 0.05, "norm": "l1"}, True),
        (torch.float16, "float16", {"awd": 10.0, "norm": "l2"}, True),
        (torch.bfloat16, "int8", {"awd": 10.0, "norm": "l2"}, False),
    ],
)
def test_the_journal_alone_rebuilds_the_final_weights(tmp_path, dtype, kept, decay, antithetic):
    run = a_run(
        tmp_path,
        model=tiny_llama(dtype=dtype),
        anchor={"drift": kept, **decay},
        antithetic=antithetic,
        steps=3,
        task={"train": 3, "holdout": 2, "max_new_tokens": 3},
    )
    shutil.copy(run / "journal.jsonl", tmp_path / "journal.jsonl")

    model, notes = rebuilt(tmp_path / "journal.jsonl")

    assert model.weights == saved(run)
    assert notes.rebuilds[0][:2] == (0, 3)
    save_model(model.base.loaded, tmp_path / "out")
    left, right = (
        load_file(each / "model.safetensors") for each in (tmp_path / "out", run / "model")
    )
    assert left.keys() == right.keys()
    assert all(left[name].view(torch.uint8).equal(right[name].view(torch.uint8)) for name in left)


# Of runs made with esft before it had kernels (2026-11-26), and the weights that they saved.
BEFORE = {
    "float32-l1": ("2bd3a80a621e4af1191cd36050f53d6cc2e77b32251ce84bfdee2913ff465b49"),
    "bfloat16-int8-l2-antithetic": (
        "119b93995a30604ff34531c9fb53039f182eb4fb71b63e8fec2c8068179ea4f7"
    ),
}


@pytest.mark.parametrize("journal", BEFORE)
def test_a_journal_of_before_rebuilds_the_same_bits(journal):
    made, _ = rebuilt(Path(__file__).parent / "journals" / f"{journal}.jsonl")

    assert made.weights == BEFORE[journal]


def test_the_nearest_snapshot_and_the_base_lead_to_the_same_bits(run):
    kept = Snapshots(run / "drift").steps()
    assert kept[:2] == [5, 4]

    for step in range(6):
        near, near_notes = rebuilt(run, str(step))
        far, far_notes = rebuilt(run, str(step), from_base=True)

        assert near.weights == far.weights
        start = max(each for each in (0, *kept) if each <= step)
        assert [each[:2] for each in near_notes.rebuilds] == [(start, step)] * (start < step)
        assert [each[:2] for each in far_notes.rebuilds] == [(0, step)] * (step > 0)


def test_step_0_is_the_base_model_and_last_the_saved_one(run):
    base, _ = rebuilt(run, "0")
    last, _ = rebuilt(run, "last")

    assert base.weights == read_journal(run / "journal.jsonl").header["base"]
    assert last.weights == saved(run)
    assert (base.proven, last.proven) == (False, True)
    assert identity(last.base.loaded.model) == last.weights


def test_best_is_the_step_with_the_best_holdout_reward(run, tmp_path):
    lines = jsonl(run / "evals.jsonl")
    best = max(lines, key=lambda line: (line["reward"], -line["step"]))["step"]

    assert step_of(find_source(str(run)), "best") == best
    with pytest.raises(RunError, match="does not say which step is the best"):
        step_of(find_source(str(run / "journal.jsonl")), "best")


@pytest.mark.parametrize("at", ["6", "-1", "1.5", "first", "", "²"])
def test_a_step_that_is_none_is_refused(run, at):
    with pytest.raises(RunError, match=r"expected best, last or a step from 0 to 5"):
        step_of(find_source(str(run)), at)


def exported(run, path, weights):
    """Write a journal as it leaves its run folder; return its file."""
    shutil.copy(run / "journal.jsonl", path)
    Journal(path, read_journal(path).checksum, append_line).end(5, weights, 4)
    return path


def test_a_journal_that_was_exported_says_what_it_rebuilds(run, tmp_path):
    path = exported(run, tmp_path / "tuned.jsonl", saved(run))

    assert rebuilt(path)[0].proven
    assert step_of(find_source(str(path)), "best") == 4


def test_weights_other_than_those_recorded_are_refused(run, tmp_path):
    with pytest.raises(RunError, match=r"rebuilds weights of sha256 \w+\.\.\., expected 0000"):
        rebuilt(exported(run, tmp_path / "tuned.jsonl", "0" * 64))


def test_another_base_model_is_refused_and_one_that_moved_is_not(run, tmp_path):
    write_model(tmp_path / "other", tiny_llama(seed=1))
    shutil.copytree(run.parent / "base", tmp_path / "moved")

    with pytest.raises(RunError, match="is another base model than that of") as caught:
        rebuilt(run, model=str(tmp_path / "other"))

    assert "--model" in caught.value.hint
    assert rebuilt(run, model=str(tmp_path / "moved"))[0].weights == saved(run)


def test_a_journal_that_was_cut_short_rebuilds_nothing(run, tmp_path):
    (tmp_path / "journal.jsonl").write_bytes((run / "journal.jsonl").read_bytes()[:-9])

    with pytest.raises(JournalError, match="ends in the middle of a line"):
        find_source(str(tmp_path / "journal.jsonl"))


def test_a_run_that_was_cut_off_rebuilds_its_last_whole_step(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    info = info_of(tmp_path / "run")
    saved = {**info["saved"], "step": 2, "journal": read_journal(journal).checksums[2]}
    (tmp_path / "run" / "run.json").write_text(
        json.dumps(info | {"state": "running", "saved": saved})
    )

    model, notes = rebuilt(tmp_path / "run")

    assert model.step == 4
    assert notes.notices == ["the journal's last line was cut off: step 4 is last"]


def test_another_noise_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr("esft.tuning.rebuild.NOISE_VERSIONS", (2, 3))

    with pytest.raises(JournalError, match="made with noise version 1, expected one of 2, 3"):
        rebuilt(run)
