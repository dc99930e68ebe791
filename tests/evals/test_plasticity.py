"""What a tuned model still learns: laws, what is made once, kills, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from kills import in_process, learn
from tiny_runs import Notes, a_recipe, given_rewards, info_of, never

from esft.errors import RecipeError, RunError, TaskError
from esft.evals.learners import PlasticityRequest
from esft.evals.plasticity import PlasticityRecord, run_plasticity
from esft.files import parse
from esft.recipe.settings import Prior
from esft.rollout.typed import from_json, to_json
from esft.runs.names import list_runs, locked, removable
from esft.tuning.start import run_tuning

PROGRAM = """\
def rows():
    return [{"prompt": f"Say {n}."} for n in range(140)]

def reward(row, answer):
    return sum(letter.islower() for letter in answer) / max(1, len(answer))
"""
"""What a tiny model learns in three large steps."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with two runs of one recipe: same/ made no update, far/ did. As README has them,
    they watched a prior task."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "letters.py").write_text(PROGRAM)
    sizes = {"train": 8, "holdout": 110, "max_new_tokens": 3}
    recipe = a_recipe(folder, task=sizes, sigma=0.2, alpha=0.2, population=8)
    recipe = replace(recipe, prior=Prior(tasks=("copy-letters:4",)))
    ways = {"same": given_rewards(*[0.5] * 24), "far": given_rewards(*range(24))}
    for name, population in ways.items():
        there = replace(recipe, run=replace(recipe.run, dir=str(folder / name)))
        run_tuning(there, Notes(), never, population)
    return folder


def asked(runs, **other):
    given = {"task": str(runs / "letters.py"), "seeds": 1, "seed": 1, "by": "reward"}
    given |= {"kl_prompts": 3, "kl_tokens": 4, "changes": {"task.max_new_tokens": 3}}
    return PlasticityRequest(**given | other)


@pytest.fixture(scope="module")
def found(runs):
    """What both runs came to, and what was told."""
    notes = Notes()
    paths = [runs / "same", runs / "far"]
    return run_plasticity(paths, asked(runs), notes, never), notes


def test_a_run_that_changed_no_bit_learns_exactly_as_its_base(found):
    record = found[0][0]

    assert record.distance.drift == 0
    assert record.distance.kl.base_to_tuned.kl == 0
    assert record.rewards.base_gain.mean > 0.2
    assert record.rewards.base == record.rewards.tuned
    assert {one.mean for one in (*record.rewards.differences, *record.right.differences)} == {0}
    assert record.verdict.kind == "kept"


def test_a_run_that_was_thrown_far_learns_otherwise(found):
    _, record = found[0]

    assert record.right.steps == record.rewards.steps == (0, 1, 2, 3)
    assert record.distance.drift > 1
    assert record.distance.kl.base_to_tuned.kl > 0.1
    assert record.rewards.tuned != record.rewards.base
    ends = record.rewards.differences[-1].mean - record.rewards.differences[0].mean
    assert record.rewards.gain.mean == pytest.approx(ends)


def test_base_models_that_learn_alike_do_it_once_and_models_lie_nowhere_twice(runs, found):
    records, notes = found

    assert records[0].seeds[0].base_run == records[1].seeds[0].base_run
    assert sum("the base model learns" in phase for phase in notes.phases) == 1
    for name, number in (("same", 2), ("far", 1)):
        folders = list((runs / name / "plasticity").iterdir())
        assert len(folders) == number
        assert not any((one / name).exists() for one in folders for name in ("model", "drift"))
    assert notes.plans == notes.shown == []


def test_each_is_an_ordinary_run_with_the_recipe_seed_and_members_of_the_other(found):
    seed = found[0][1].seeds[0]
    base, tuned = (info_of(Path(path)) for path in (seed.base_run, seed.tuned_run))

    differing = {key for key in base["settings"] if base["settings"][key] != tuned["settings"][key]}
    assert differing == {"model.id", "run.dir"}
    assert base["rows"] == tuned["rows"]
    assert base["model"]["base"] != tuned["model"]["base"]
    assert base["settings"]["prior.tasks"] == []
    kept = {"search.sigma": 0.2, "search.alpha": 0.2, "search.population": 8, "search.steps": 3}
    assert base["settings"].items() >= kept.items()


def test_the_same_again_makes_nothing_and_says_the_same(runs, found, monkeypatch):
    monkeypatch.setattr("esft.evals.plasticity.run_tuning", None)
    monkeypatch.setattr("esft.evals.plasticity.resume_tuning", None)

    again = run_plasticity([runs / "same", runs / "far"], asked(runs), Notes(), never)

    assert again == found[0]
    written = parse((runs / "far" / "plasticity.json").read_bytes())
    assert from_json(PlasticityRecord, written) == again[1]


@pytest.mark.parametrize("start", ["base", "tuned"])
def test_a_killed_one_goes_on_to_the_same_numbers(runs, found, start, tmp_path):
    run = shutil.copytree(runs / "far", tmp_path / "far")
    expected = numbers(found[0][1])
    if start == "base":
        shutil.rmtree(run / "plasticity")
    else:
        shutil.rmtree(found_run(run, "tuned"))
        shutil.copytree(found_run(runs / "same", "base"), run / "plasticity" / "b")
    (run / "plasticity.json").unlink()

    killed, _ = in_process(learn, run, asked(runs), "step", 40)
    again, record = in_process(learn, run, asked(runs))

    assert (killed, again) == (-9, 0)
    assert numbers(from_json(PlasticityRecord, record)) == expected


def found_run(run, start):
    (path,) = (run / "plasticity").glob(f"*-{start}-*")
    return path


def numbers(record):
    record = to_json(record) | {"run": None, "distance": None}
    for seed in record["seeds"]:
        seed |= {"base_run": None, "tuned_run": None}
    return json.dumps(record)


def test_one_that_is_stopped_goes_on_to_the_same_numbers(runs, found, tmp_path):
    run = shutil.copytree(runs / "far", tmp_path / "far")
    shutil.rmtree(run / "plasticity")
    steps = Notes()

    with pytest.raises(KeyboardInterrupt):
        run_plasticity([run], asked(runs), steps, lambda: len(steps.steps) >= 2)
    (record,) = run_plasticity([run], asked(runs), Notes(), never)

    assert len(steps.steps) == 2
    assert numbers(record) == numbers(found[0][1])


@pytest.mark.parametrize("gone", ["removed", "not kept", "another"])
def test_a_model_that_is_gone_is_rebuilt_and_removed_again(runs, found, gone, tmp_path):
    run = shutil.copytree(runs / "far", tmp_path / "far")
    shutil.rmtree(found_run(run, "tuned"))
    if gone == "another":
        shutil.rmtree(run / "model")
        shutil.copytree(runs / "same" / "model", run / "model")
    else:
        shutil.rmtree(run / "model")
    if gone == "not kept":
        info = info_of(run)
        info["settings"]["run.keep_model"] = False
        (run / "run.json").write_text(json.dumps(info))

    (record,) = run_plasticity([runs / "same", run], asked(runs), Notes(), never)[1:]

    assert numbers(record) == numbers(found[0][1])
    assert not (run / "plasticity" / "model").exists()
    assert (run / "model").exists() == (gone == "another")


def test_a_run_with_such_runs_is_removed_with_them_and_they_are_not_listed(runs, found, tmp_path):
    run = shutil.copytree(runs / "same", tmp_path / "runs" / "same")

    assert removable([str(run)]) == [run]
    shutil.copytree(runs / "far", run / "plasticity" / "x" / "deeper")
    with pytest.raises(RunError, match="has another run in it"):
        removable([str(run)])
    assert list_runs() == []


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"task": "conciseness"}, RecipeError, "which run .* was tuned on, expected another"),
        ({"task": "concisenes"}, RecipeError, "task 'concisenes' is unknown"),
        ({"task": "gone.jsonl"}, RecipeError, "gone.jsonl"),
        ({"task": "arc", "changes": {"task.data_dir": "gone"}}, TaskError, "gone"),
        ({"rows": 10_000}, TaskError, "expected 10000"),
        ({"changes": {"model.id": "x"}}, RecipeError, "--set model.id: it follows from the run"),
        ({"changes": {"search.seed": 5}}, RecipeError, "--set search.seed: it follows"),
        ({"changes": {"search.sigmo": 5}}, RecipeError, "sigmo"),
        ({"steps": 0}, RecipeError, "--steps: .* steps is 0, expected"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_anything_is_made(
    runs, tmp_path, changes, error, words
):
    run = shutil.copytree(runs / "far", tmp_path / "far")
    shutil.rmtree(run / "plasticity", ignore_errors=True)

    with pytest.raises(error, match=words) as caught:
        run_plasticity([run], asked(runs, **changes), Notes(), never)

    assert caught.value.hint
    assert not (run / "plasticity").exists()


def test_a_run_without_a_model_or_of_codes_or_in_use_is_refused(runs, tmp_path):
    run = shutil.copytree(runs / "far", tmp_path / "far")
    with locked(run), pytest.raises(RunError, match="in use"):
        run_plasticity([run], asked(runs), Notes(), never)
    info = info_of(run)
    (run / "run.json").write_text(json.dumps(info | {"saved": None, "state": "running"}))
    with pytest.raises(RunError, match="has saved no model yet"):
        run_plasticity([run], asked(runs), Notes(), never)
    (run / "run.json").write_text(json.dumps(info))
    toml = (run / "recipe.toml").read_text().replace('weights = "float"', 'weights = "int8"')
    (run / "recipe.toml").write_text(toml)
    with pytest.raises(RunError, match="tuned int8, expected floats"):
        run_plasticity([run], asked(runs), Notes(), never)


def test_rows_that_changed_are_learned_anew(runs, tmp_path):
    program, run = tmp_path / "letters.py", shutil.copytree(runs / "same", tmp_path / "same")
    shutil.rmtree(run / "plasticity", ignore_errors=True)
    request = asked(runs, task=str(program), steps=1)
    for word, folders in (("Say", 2), ("Tell", 4), ("Say", 4)):
        program.write_text(PROGRAM.replace("Say", word))

        (record,) = run_plasticity([run], request, Notes(), never)

        assert record.right.steps == (0, 1)
        assert len(list((run / "plasticity").iterdir())) == folders
