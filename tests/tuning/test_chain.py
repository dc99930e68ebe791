"""A chain of tasks: one run and one journal, whose stages follow one another."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from kills import in_process
from kills import resume as resume_alone
from kills import tune as tune_alone
from rank_runs import on_ranks, tune
from tiny_runs import Notes, a_recipe, info_of, jsonl, never, write_arc

from esft.cli.outcome import show_outcome
from esft.engine.forecast import forecast_of
from esft.engine.journal_read import made_with, read_journal
from esft.errors import RecipeError, RunError
from esft.evals.chains import forgetting_lines, matrix_of
from esft.evals.run import EvalRequest, run_eval, write_eval
from esft.export.folder import export
from esft.models.outline import outline_model
from esft.recipe.settings import Prior, Run
from esft.recipe.stages import Stage
from esft.report.read import read_run, recorded_forgetting
from esft.report.write import write_report
from esft.runs.records import scores
from esft.tuning.base import open_base
from esft.tuning.clock import Clock
from esft.tuning.costs import check_run, costs_of, plan_run
from esft.tuning.rebuild import RebuildOptions, find_source, rebuild
from esft.tuning.run_info import with_recorded_paths
from esft.tuning.session import open_session, open_sessions, open_works
from esft.tuning.start import Finished, resume_tuning, run_tuning
from esft.tuning.tasks import rows_hash, rows_of
from esft.tuning.verify import FAILED, checks_of

ENDS = (0, 2, 4, 6)
STAGES = (
    Stage(steps=2),
    Stage(
        steps=2,
        changes={
            "task.name": "subtract-two-digits",
            "task.rows_per_step": 3,
            "search.population": 6,
            "search.anneal": "linear",
            "anchor.awd": 2.0,
            "anchor.norm": "l2",
            "anchor.kl": 1.0,
            "anchor.kl_tasks": ["sort-digits"],
        },
    ),
    Stage(steps=2, changes={"task.name": "add-two-digits", "search.screen_rows": True}),
)


def a_chain(folder, name="run", stages=STAGES, **prior):
    """Return the recipe of a chain of three stages with a prior task."""
    task = {"reward": "logprob", "holdout": 8, "rows_per_step": 4}
    recipe = a_recipe(folder, steps=sum(stage.steps for stage in stages), task=task)
    prior = Prior(tasks=("copy-letters",), rows=4, **prior)
    run = Run(dir=str(folder / name), snapshot_every=3)
    return replace(recipe, stages=stages, prior=prior, run=run)


def left_of(run):
    """Return what must not depend on how a chain came to its end."""
    return {
        "journal": (run / "journal.jsonl").read_bytes(),
        "weights": (run / "model" / "model.safetensors").read_bytes(),
        "saved": info_of(run)["saved"],
        "evals": (run / "evals.jsonl").read_bytes(),
        **{file.name: file.read_bytes() for file in (run / "evals").iterdir()},
        "steps": [(line["drift"], line["forecast"]) for line in jsonl(run / "metrics.jsonl")],
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a chain that was made in one go."""
    folder = tmp_path_factory.mktemp("chain")
    outcome = run_tuning(a_chain(folder, "whole"), Notes(), never)
    assert (outcome.steps, outcome.planned, outcome.task) == (6, 6, "add-two-digits")
    return folder


def test_the_first_stage_is_the_run_of_its_task_and_each_step_says_what_it_was_made_with(
    whole, tmp_path
):
    alone = replace(a_chain(whole, "alone"), stages=(), run=Run(dir=str(tmp_path / "alone")))
    run_tuning(replace(alone, search=replace(alone.search, steps=2)), Notes(), never)

    record, first = (
        read_journal(run / "journal.jsonl") for run in (whole / "whole", tmp_path / "alone")
    )

    for one, other in zip(record.steps, first.steps, strict=False):
        assert one.coefficients == other.coefficients
        assert one.rows_hash == other.rows_hash
    assert record.header["stages"] == [2, 2, 2]
    made = [made_with(step, record.header) for step in record.steps]
    assert [one.population for one in made] == [4, 4, 6, 6, 4, 4]
    assert [one.awd for one in made] == [0, 0, 2, 2, 0, 0]
    assert [one.norm for one in made] == ["l1", "l1", "l2", "l2", "l1", "l1"]
    assert [one.alpha for one in made] == pytest.approx([0.02, 0.02, 0.02, 0.002, 0.02, 0.02])
    assert [step.rows_at for step in record.steps] == [0, 4, 0, 3, 0, 4]
    assert [step.kl is None for step in record.steps] == [True, True, False, False, True, True]
    assert [step.silent is None for step in record.steps] == [True] * 4 + [False] * 2
    second = open_session(a_chain(whole).at_stage(1))
    seen = [rows_hash(second.train[row].row for row in second.turns(step)) for step in (1, 2)]
    assert [step.rows_hash for step in record.steps[2:4]] == seen
    assert {"train", "train, stage 1", "train, stage 2"} < info_of(whole / "whole")["rows"].keys()


def test_every_task_is_evaluated_at_the_end_of_every_stage(whole):
    recorded = scores(whole / "whole")

    names = ["conciseness", "subtract-two-digits", "add-two-digits", "copy-letters"]
    assert {(one.step, one.task) for one in recorded} == {(end, n) for end in ENDS for n in names}
    assert {one.task for one in recorded if one.role == "target"} == {"add-two-digits"}


def test_each_stage_says_after_its_first_steps_whether_there_is_a_signal(whole):
    lines = jsonl(whole / "whole" / "metrics.jsonl")

    assert [line["step"] for line in lines if line["verdict"] is not None] == [2, 4, 6]


@pytest.mark.parametrize("stopped", [1, 2, 3, 4, 5])
def test_a_chain_stopped_after_any_step_goes_on_to_the_same_bits(whole, tmp_path, stopped):
    recipe = replace(a_chain(whole), run=Run(dir=str(tmp_path / "run"), snapshot_every=3))
    notes = Notes()
    outcome = run_tuning(recipe, notes, lambda: len(notes.steps) >= stopped)
    assert (outcome.steps, outcome.stopped) == (stopped, True)

    outcome = resume_tuning(tmp_path / "run", Notes(), never)

    assert (outcome.steps, outcome.stopped) == (6, False)
    mine, theirs = left_of(tmp_path / "run"), left_of(whole / "whole")
    # Where it stopped it was evaluated, too.
    theirs_steps = {one.step for one in scores(tmp_path / "run")}
    assert theirs_steps == {*ENDS, stopped}
    assert theirs.keys() <= mine.keys()
    assert all(mine[key] == theirs[key] for key in theirs if key != "evals")
    assert isinstance(resume_tuning(tmp_path / "run", Notes(), never), Finished)


def test_a_stage_whose_end_was_not_evaluated_is_evaluated_before_the_next(whole, tmp_path):
    run = tmp_path / "run"
    notes = Notes()
    recipe = replace(a_chain(whole), run=Run(dir=str(run), snapshot_every=3))
    run_tuning(recipe, notes, lambda: len(notes.steps) >= 2)
    lines = (run / "evals.jsonl").read_text().splitlines(keepends=True)
    (run / "evals.jsonl").write_text("".join(line for line in lines if '"step": 2,' not in line))

    resume_tuning(run, Notes(), never)

    assert (run / "evals.jsonl").read_bytes() == (whole / "whole" / "evals.jsonl").read_bytes()


def test_the_journal_alone_rebuilds_every_step_of_a_chain(whole):
    source = find_source(str(whole / "whole" / "journal.jsonl"))
    rebuilt = rebuild(source, "6", Notes(), RebuildOptions(from_base=True))

    assert rebuilt.weights == info_of(whole / "whole")["saved"]["weights"]
    lines = jsonl(whole / "whole" / "metrics.jsonl")
    forecast = forecast_of(source.record, rebuilt.base.weights.numel)
    assert forecast.norms[1:] == [line["forecast"] for line in lines]
    assert lines[-1]["forecast"] == pytest.approx(lines[-1]["drift"], rel=0.05)
    found = checks_of(whole / "whole", Notes(), RebuildOptions())
    assert FAILED not in {check.result for check in found}


def test_ranks_leave_what_one_process_leaves_of_a_chain(whole, tmp_path):
    recipe = replace(a_chain(whole), run=Run(dir=str(tmp_path / "of-2"), snapshot_every=3))

    ended = on_ranks(2, tune, recipe)

    assert [one.code for one in ended] == [0, 0]
    assert left_of(tmp_path / "of-2") == left_of(whole / "whole")


def test_a_chain_that_torchrun_starts_again_goes_on(whole, tmp_path):
    recipe = replace(a_chain(whole), run=Run(dir=str(tmp_path / "run"), snapshot_every=3))
    notes = Notes()
    run_tuning(recipe, notes, lambda: len(notes.steps) >= 3)

    ended, _ = on_ranks(2, tune, recipe, restarts=1)

    assert ended.code == 0, ended.error
    assert left_of(tmp_path / "run")["weights"] == left_of(whole / "whole")["weights"]


def test_eval_and_report_show_the_matrix_that_the_run_recorded(whole):
    run = whole / "whole"
    matrix = recorded_forgetting(run)

    request = EvalRequest(run=str(run), kl_prompts=2, kl_tokens=3, noise_floor=False)
    result = run_eval(request, Notes())

    assert result.record.forgetting == matrix
    assert matrix.steps == ENDS
    stages = {task.task: task.stage for task in matrix.tasks}
    targets = {"conciseness": 1, "subtract-two-digits": 2, "add-two-digits": 3}
    assert stages == targets | {"copy-letters": None}
    assert [one.step for one in result.record.drift] == [2, 4, 6]
    kls = {task.name: [pair.step for pair in task.kl] for task in result.record.tasks}
    earlier = ("conciseness", "subtract-two-digits", "copy-letters")
    assert kls == {"add-two-digits": []} | {name: [2, 4, 6] for name in earlier}
    write_eval(result)
    assert read_run(run).forgetting == matrix
    page = write_report([run]).page.read_text()
    assert "Stage by stage" in page
    assert "conciseness &gt; subtract-two-digits &gt; add-two-digits" in page
    assert forgetting_lines(matrix)[0].endswith("(1: step 2, 2: step 4, 3: step 6)")


def test_the_plan_of_a_chain_has_its_stages_and_a_drift_that_adds_up(whole, tmp_path):
    notes = Notes()
    recipe = replace(a_chain(whole), run=Run(dir=str(tmp_path / "run")))

    check_run(recipe, notes)

    words = [phase for phase in notes.phases if phase.startswith("stage")]
    assert words[1] == "stage 2 of 3: subtract-two-digits, steps 3 to 4"
    told = [dict(lines)["decay"] for lines in notes.plans]
    norms = [float(text.partition("||D|| forecast ")[2].split()[0].rstrip(",")) for text in told]
    lines = jsonl(whole / "whole" / "metrics.jsonl")
    assert norms == pytest.approx([lines[end - 1]["forecast"] for end in ENDS[1:]], rel=0.1)
    assert not (tmp_path / "run").exists()


def test_an_anchor_that_moves_by_stage_is_where_the_stage_before_ended(tmp_path):
    recipe = a_chain(tmp_path)
    anchor = replace(recipe.anchor, awd=5.0, norm="l2", move="stage")
    recipes = {
        name: replace(recipe, anchor=anchor, run=Run(dir=str(tmp_path / name)))
        for name in ("whole", "run")
    }
    run_tuning(recipes["whole"], Notes(), never)
    run, notes = tmp_path / "run", Notes()
    run_tuning(recipes["run"], notes, lambda: len(notes.steps) >= 3)
    resume_tuning(run, Notes(), never)

    record = read_journal(run / "journal.jsonl")

    assert [made_with(step, record.header).tau for step in record.steps] == [0, 1, 0, 1, 0, 0]
    lines = jsonl(run / "metrics.jsonl")
    anchors = [line["anchor"] for line in lines]
    assert anchors == [0, *[lines[1]["drift"]] * 2, *[lines[3]["drift"]] * 3]
    assert [line["drift"] for line in lines] == pytest.approx(
        [line["forecast"] for line in lines], rel=0.05
    )
    notes = Notes()
    check_run(replace(recipes["run"], run=Run(dir=str(tmp_path / "other"))), notes)
    told = dict(notes.plans[-1])["decay"]
    assert "towards where the stage before ended" in told
    norm = float(told.partition("||D|| forecast ")[2].split(",")[0].split()[0])
    assert norm == pytest.approx(lines[-1]["forecast"], rel=0.05)
    assert left_of(run)["weights"] == left_of(tmp_path / "whole")["weights"]
    rebuilt = rebuild(find_source(str(run / "journal.jsonl")), "6", Notes(), RebuildOptions())
    assert rebuilt.weights == info_of(run)["saved"]["weights"]


def test_a_chain_that_comes_back_to_a_task_has_it_once(tmp_path):
    stages = (
        Stage(steps=1, changes={"task.name": "sort-digits"}),
        Stage(steps=1, changes={"task.name": "copy-letters"}),
        Stage(steps=1, changes={"task.name": "sort-digits"}),
    )
    recipe = replace(a_chain(tmp_path, stages=stages), prior=Prior())

    run_tuning(recipe, Notes(), never)

    recorded = scores(tmp_path / "run")
    assert [one.task for one in recorded if one.step == 1] == ["sort-digits", "copy-letters"]
    assert [task.stage for task in recorded_forgetting(tmp_path / "run").tasks] == [2, 3]
    names = [json.loads(line)["role"] for line in (tmp_path / "run" / "evals.jsonl").open()]
    assert names == ["target", "prior"] * 2 + ["prior", "target"] + ["target", "prior"]


def test_a_prior_task_that_a_stage_tunes_on_is_refused(tmp_path):
    recipe = replace(a_chain(tmp_path), prior=Prior(tasks=("subtract-two-digits",)))

    with pytest.raises(RecipeError, match="the prior tasks have subtract-two-digits, expected"):
        run_tuning(recipe, Notes(), never)


def test_the_card_of_an_exported_chain_names_its_stages(whole, tmp_path):
    export(find_source(str(whole / "whole")), "last", tmp_path / "out", Notes(), RebuildOptions())

    card = (tmp_path / "out" / "README.md").read_text()

    assert "tuned on conciseness > subtract-two-digits > add-two-digits" in card
    assert "- stage 2: steps 2, task.name subtract-two-digits" in card


@pytest.mark.parametrize(
    ("place", "nth"),
    [("journal", 2), ("evaluation", 5), ("evaluation", 7), ("file", 25)],
)
def test_a_chain_killed_around_the_end_of_a_stage_goes_on_to_the_same_bits(
    whole, tmp_path, place, nth
):
    recipe = replace(a_chain(whole), run=Run(dir=str(tmp_path / "run"), snapshot_every=3))

    codes = [in_process(tune_alone, recipe, place, nth)[0]]
    steps = (tmp_path / "run" / "journal.jsonl").read_text().count("\n") - 1
    codes.append(in_process(resume_alone, tmp_path / "run")[0])

    assert codes == [-9, 0]
    assert 1 <= steps <= 4
    mine, theirs = left_of(tmp_path / "run"), left_of(whole / "whole")
    del mine["steps"], theirs["steps"]  # of a step made again less is known
    assert mine == theirs


@pytest.mark.parametrize("stopped", [1, 3])
def test_a_chain_that_stopped_within_a_stage_is_shown_evaluated_and_reported(tmp_path, stopped):
    recipe, notes = a_chain(tmp_path), Notes()
    outcome = run_tuning(recipe, notes, lambda: len(notes.steps) >= stopped)
    run = tmp_path / "run"

    show_outcome(outcome, as_json=False)
    show_outcome(outcome, as_json=True)
    request = EvalRequest(run=str(run), kl_prompts=0, noise_floor=False)
    matrix = run_eval(request, Notes()).record.forgetting
    assert matrix == read_run(run).forgetting
    if stopped == 1:
        assert matrix is None
    else:
        assert matrix.steps == (0, 2)
        learned = {task.task: task.learned is not None for task in matrix.tasks}
        assert learned == dict.fromkeys(learned, False) | {"conciseness": True}
    assert "left out" not in write_report([run]).page.read_text()
    with pytest.raises(RunError, match=r"--steps is 9, expected none: run .* is a chain"):
        resume_tuning(run, Notes(), never, steps=9)


def test_stages_take_their_rows_from_their_own_folders_wherever_a_chain_goes_on(
    tmp_path, monkeypatch
):
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    rows = [{"prompt": f"Say {number}.", "answer": str(number)} for number in range(12)]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("ESFT_DATA_DIR", str(write_arc(there / "data", rows=6)))
    few = {"task.train": 3, "task.holdout": 3, "task.rows_per_step": 2}
    own = few | {"task.name": "own.jsonl", "task.grader": "exact"}
    stages = (
        Stage(steps=1, changes=own),
        Stage(steps=1, changes=few | {"task.name": "arc"}),
    )
    recipe = a_chain(tmp_path, stages=stages)
    notes = Notes()
    run_tuning(recipe, notes, lambda: len(notes.steps) >= 1)

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESFT_DATA_DIR")
    outcome = resume_tuning(tmp_path / "run", Notes(), never)

    assert (outcome.steps, outcome.stopped, outcome.task) == (2, False, "arc")
    result = run_eval(EvalRequest(run="run", kl_prompts=0, noise_floor=False), Notes())
    assert [task.name for task in result.record.tasks] == ["arc", "own", "copy-letters"]
    assert not result.record.failed
    export(find_source("run"), "last", Path("out"), Notes(), RebuildOptions())
    card = Path("out/README.md").read_text()
    assert "- stage 2: steps 1, " in card
    assert str(there) not in card


def test_prior_tasks_have_their_rows_from_one_place_in_all_stages(tmp_path, monkeypatch):
    monkeypatch.setenv("ESFT_DATA_DIR", str(write_arc(tmp_path / "data", rows=6)))
    other = str(write_arc(tmp_path / "other", rows=9))
    few = {"task.train": 3, "task.holdout": 3, "task.rows_per_step": 2}
    stages = (
        Stage(steps=1),
        Stage(steps=1, changes=few | {"task.name": "arc", "task.data_dir": other}),
    )
    recipe = replace(a_chain(tmp_path, stages=stages), prior=Prior(tasks=("arc-easy:5",)))

    priors = [session.tasks[-1].encoded for session in open_sessions(recipe)]

    first, second = ([one.row.key for one in rows] for rows in priors)
    assert first == second
    _, rows = rows_of(recipe.prior.specs[0], 5, other)
    assert [row.key for row in rows] != first


def test_ctrl_c_while_a_stage_is_evaluated_makes_no_step_of_the_next(tmp_path):
    notes = Notes()

    def stop():
        return any(step == 2 for step, _ in notes.evaluations)

    outcome = run_tuning(a_chain(tmp_path), notes, stop)

    assert (outcome.steps, outcome.stopped) == (2, True)


def test_the_source_of_a_stage_is_found_from_another_folder(tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    changes = {"task.name": "know", "task.source": "rows.jsonl"}
    recipe = a_chain(tmp_path, stages=(Stage(steps=1), Stage(steps=1, changes=changes)))

    there = with_recorded_paths(recipe, str(tmp_path), None)

    assert there.stages[1].changes["task.source"] == str(tmp_path / "rows.jsonl")


def test_what_a_chain_takes_is_told_by_the_batches_of_all_stages(whole, tmp_path, monkeypatch):
    seen = []

    def noted(recipe, model, batches, rows, *rest):
        seen.extend(batches)
        return costs_of(recipe, model, batches, rows, *rest)

    monkeypatch.setattr("esft.tuning.costs.costs_of", noted)
    recipe = replace(a_chain(whole), run=Run(dir=str(tmp_path / "run")))
    of_stages = [work.batches for work in open_works(recipe, outline_model)]

    for tell in (partial(check_run, recipe, Notes()), partial(plan_run, recipe)):
        seen.clear()
        tell()
        assert seen == [batch for batches in of_stages for batch in batches]


def test_where_base_weights_lie_is_chosen_for_the_batches_of_all_stages(whole, monkeypatch):
    seen = []

    def noted(loaded, anchor, seed, include, exclude, room, batches, rank):
        seen.extend(batches)
        return open_base(loaded, anchor, seed, include, exclude, room, batches, rank)

    monkeypatch.setattr("esft.tuning.session.open_base", noted)

    sessions = open_sessions(a_chain(whole))

    for session in sessions:
        assert all(batch in seen for batch in session.batches)
    assert len({session.batches[0] for session in sessions}) > 1


def test_the_outcome_and_the_time_left_count_all_stages(tmp_path, monkeypatch):
    later = []

    def clock(recipe, a_noise, stages):
        later.append([stage.task.name for stage in stages])
        return Clock(recipe, a_noise, stages)

    monkeypatch.setattr("esft.tuning.loop.Clock", clock)
    outcome = run_tuning(a_chain(tmp_path), Notes(), never)

    assert later == [["subtract-two-digits", "add-two-digits"], ["add-two-digits"], []]
    times = [line["times"] for line in jsonl(tmp_path / "run" / "metrics.jsonl")]
    assert outcome.times.rollout == pytest.approx(sum(one["rollout"] for one in times))
    assert outcome.seconds >= sum(line["seconds"] for line in jsonl(tmp_path / "run/metrics.jsonl"))


def test_a_chain_of_rewards_alone_has_no_matrix(whole):
    recipe = a_chain(whole)

    assert matrix_of(recipe, ENDS, {"conciseness": {}}) is None
    assert matrix_of(recipe, (), {"conciseness": {0: [1.0]}}) is None
    assert matrix_of(recipe, ENDS, {"conciseness": {0: [1.0, 0.0]}}).tasks[0].stage == 1
