"""Budgets: a run above one goes back and takes a stronger decay, and what is left of it follows."""

from dataclasses import replace

import pytest
from kills import in_process, resume, tune, what_is_left
from rank_runs import on_ranks
from rank_runs import tune as tune_on_ranks
from tiny_runs import Notes, a_recipe, info_of, jsonl, never

from esft.engine.forecast import Forecast, forecast_of
from esft.engine.journal_read import read_journal
from esft.engine.measures import measures
from esft.errors import RunError
from esft.export.journal import export_journal
from esft.recipe.settings import Anchor, Prior
from esft.report.read import read_run
from esft.runs.listing import _steps
from esft.runs.records import RecordedScore, best_step
from esft.tuning.budget import first_decay
from esft.tuning.rebuild import RebuildOptions, find_source, rebuild
from esft.tuning.session import open_session
from esft.tuning.start import resume_tuning, run_tuning
from esft.tuning.verify import OK, checks_of


def tiny(folder, run=None, **anchor):
    """Return a recipe whose ||D|| is 2.3 after 2 free steps, 2.9 after 4 and 4.4 after 8."""
    recipe = a_recipe(folder, steps=8)
    return replace(
        recipe,
        anchor=Anchor(**({"max_drift": 3.0} | anchor)),
        prior=Prior(every=2),
        run=replace(recipe.run, dir=str(run or folder / "run")),
    )


def prompts(folder):
    file = folder / "prompts.txt"
    file.write_text("Say one.\nSay two things.\nSay three or four.\n")
    return {"kl_tasks": [str(file)]}


def lines_of(run, kind):
    return [line for line in jsonl(run / "journal.jsonl") if kind in line]


def drift_at(run, step):
    return next(line["drift"] for line in jsonl(run / "metrics.jsonl") if line["step"] == step)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_run_above_a_budget_goes_back_to_the_last_step_within_and_ends_below(tmp_path, norm):
    notes = Notes()
    outcome = run_tuning(tiny(tmp_path, norm=norm), notes, never)
    run, record = tmp_path / "run", read_journal(tmp_path / "run" / "journal.jsonl")

    first = record.backs[0]
    assert (first.step, first.to, first.was) == (6, 4, 0.0)
    assert first.drift > 3 >= drift_at(run, 4)
    told = f"step 6: ||D|| {first.drift:.4g} is above --max-drift 3: back to step 4, decay 0 -> "
    assert notes.notices[-len(record.backs)] == f"{told}{first.awd:.3g}"
    assert {step.own.get("awd") for step in record.steps[:4]} == {None}
    assert {step.own.get("awd") for step in record.steps[4:]} == {outcome.backs[-1].awd}
    assert all(drift_at(run, step) <= 3 for step in (2, 4, 6, 8))
    assert (outcome.steps, outcome.spent, outcome.stopped) == (8, None, False)
    assert [line["step"] for line in jsonl(run / "evals.jsonl")] == [0, 2, 4, 6, 8]
    assert [line["step"] for line in jsonl(run / "metrics.jsonl")] == [*range(1, 9)]
    assert _steps(run) == 8
    assert notes.rebuilds == []  # the step within had a snapshot
    numel = info_of(run)["model"]["tuned_parameters"]
    forecast = forecast_of(record, numel).norms[1:]
    assert [line["forecast"] for line in jsonl(run / "metrics.jsonl")] == forecast
    assert record.header["budget"] == {"max_drift": 3.0}


def test_the_same_trials_are_made_again(tmp_path):
    run_tuning(tiny(tmp_path), Notes(), never)
    fifth = [line for line in lines_of(tmp_path / "run", "step") if line["step"] == 5]

    assert len(fifth) == 2
    assert [fifth[0][key] for key in ("rewards", "rows")] == [
        fifth[1][key] for key in ("rewards", "rows")
    ]


def test_a_decay_that_there_is_doubles_and_after_three_times_the_best_within_is_kept(tmp_path):
    recipe = tiny(tmp_path, awd=0.001, max_drift=2.6)
    outcome = run_tuning(recipe, Notes(), never)
    run, spent = tmp_path / "run", outcome.spent
    record = read_journal(run / "journal.jsonl")

    assert [back.awd for back in record.backs] == [0.002, 0.004, 0.008]
    assert (spent.step, spent.at, spent.decays) == (2, 4, (0.002, 0.004, 0.008))
    assert outcome.steps == record.last == 4
    assert str(spent).endswith("above --max-drift 2.6, also with the decays 0.002, 0.004, 0.008")
    saved = info_of(run)["saved"]
    assert (saved["step"], saved["end"]) == (2, [4, record.checksum])
    assert info_of(run)["state"] == "finished"
    assert [line["within"] for line in jsonl(run / "evals.jsonl")] == [None, True, False]
    assert outcome.best_step == find_source(str(run)).best == 0
    assert rebuild(find_source(str(run)), "last", Notes()).proven
    assert all(check.result == OK for check in checks_of(run, Notes(), RebuildOptions()))
    # It was over, and is when it is asked to go on for longer.
    again = resume_tuning(run, Notes(), never, steps=12)
    assert (again.spent, info_of(run)["saved"]) == (spent, saved)


def test_an_l2_decay_stays_one_that_does_not_jump_past_the_base(tmp_path):
    run_tuning(tiny(tmp_path, awd=20.0, norm="l2", max_drift=1.3), Notes(), never)
    backs = read_journal(tmp_path / "run" / "journal.jsonl").backs

    assert [back.awd for back in backs] == [35.0, 42.5][: len(backs)]


def test_a_run_with_nothing_within_fails_and_saves_no_model_as_tuned(tmp_path):
    recipe = tiny(tmp_path, awd=0.001, max_drift=0.5)

    with pytest.raises(RunError, match=r"step 2: .* no evaluation before was within") as caught:
        run_tuning(recipe, Notes(), never)

    assert "smaller --alpha" in caught.value.hint
    info, record = info_of(tmp_path / "run"), read_journal(tmp_path / "run" / "journal.jsonl")
    assert [(back.step, back.to) for back in record.backs] == [(2, 0)] * 3
    assert (info["state"], info["saved"], (tmp_path / "run" / "model").exists()) == (
        "failed",
        None,
        False,
    )


def test_the_kl_of_a_budget_is_that_of_all_prompts_and_no_member_is_compared(tmp_path):
    recipe = tiny(tmp_path, max_drift=None, max_kl=0.1, **prompts(tmp_path))
    notes = Notes()
    outcome = run_tuning(recipe, notes, never)
    run, record = tmp_path / "run", read_journal(tmp_path / "run" / "journal.jsonl")

    assert record.backs[0].kl > 0.1
    assert record.backs[0].kl_se > 0
    kls = [line["kl"] for line in jsonl(run / "evals.jsonl")][1:]
    assert all(0 < kl <= 0.1 for kl in kls)
    assert (outcome.kl, notes.evaluations[-1][1][0].kl) == (kls[-1], kls[-1])
    assert all(step.kl is None for step in record.steps)
    session = open_session(recipe)
    assert (session.prompts.share, session.member_kl) == (0.0, None)
    assert session.anchor_kl.of_all().kl == 0.0
    assert session.anchor_kl.of_all().prompts == 3


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize(("since", "at", "allowed"), [(0, 2, 0.5), (4, 6, 0.9), (6, 8, 2.0)])
def test_a_first_decay_brings_the_forecast_to_what_is_allowed(tmp_path, norm, since, at, allowed):
    session = open_session(tiny(tmp_path, norm=norm))
    search, squares = session.recipe.search, float(session.recipe.search.population)

    def norms(awd):
        forecast = Forecast(1, search.alpha)
        for step in range(1, 9):
            decay = awd if step > since else 0.0
            forecast.step(search.population, squares, search.alpha, search.sigma, decay, norm)
        return forecast.norms

    awd, free = first_decay(session, since, at, allowed), norms(0.0)

    # A tenth less, at most 3/4 of the free one; to one percent of lambda.
    assert norms(awd)[-1] == pytest.approx(min(0.75 * free[-1], 0.9 * allowed * free[at]), rel=0.02)
    assert awd == float(f"{awd:.3g}")


def test_a_step_above_a_budget_is_never_the_best():
    score = RecordedScore(
        step=0, n=1, accuracy=None, se=None, reward=0.1, reward_se=None, task="a", role="target"
    )
    within = replace(score, step=2, reward=0.2, within=True)
    above = replace(score, step=4, reward=0.9, within=False)

    assert best_step([score, within, above]) == 2


def test_the_report_tells_each_time_and_the_decay_in_force(tmp_path):
    outcome = run_tuning(tiny(tmp_path), Notes(), never)
    numbers = read_run(tmp_path / "run")

    assert [outcome.budget.told(back) for back in outcome.backs] == list(numbers.notes)
    assert numbers.decay.awd == outcome.backs[-1].awd > 0
    assert numbers.steps == 8


def test_a_budget_that_is_never_reached_changes_no_bit(tmp_path):
    run_tuning(tiny(tmp_path, tmp_path / "free", max_drift=None), Notes(), never)
    run_tuning(tiny(tmp_path, tmp_path / "held", max_drift=99.0), Notes(), never)

    free, held = (read_journal(tmp_path / name / "journal.jsonl") for name in ("free", "held"))
    assert repr(free.steps) == repr(held.steps)
    formats = [jsonl(record.path)[0]["format"] for record in (free, held)]
    assert formats == [1, 3]
    assert (tmp_path / "free" / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "held" / "model" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("kept", ["float32", "int8"])
@pytest.mark.parametrize("max_drift", [3.0, 1.6])  # back to step 4 of 6; to the base model
def test_journal_alone_snapshots_export_and_verify_say_the_same(tmp_path, kept, max_drift):
    run_tuning(tiny(tmp_path, drift=kept, max_drift=max_drift), Notes(), never)
    run = tmp_path / "run"
    record, out = read_journal(run / "journal.jsonl"), tmp_path / "journal.jsonl"

    assert record.backs
    assert all(check.result == OK for check in checks_of(run, Notes(), RebuildOptions()))
    export_journal(find_source(str(run)), "last", out, Notes(), RebuildOptions())
    from_base = rebuild(find_source(str(run)), "last", Notes(), RebuildOptions(from_base=True))
    alone = rebuild(find_source(str(out)), "last", Notes())
    assert alone.proven
    assert alone.weights == from_base.weights == info_of(run)["saved"]["weights"]
    made = measures(from_base.base.drift).norm
    assert made == pytest.approx(jsonl(run / "metrics.jsonl")[-1]["drift"], rel=1e-6)
    export_journal(find_source(str(run)), "5", tmp_path / "five", Notes(), RebuildOptions())
    assert rebuild(find_source(str(tmp_path / "five")), "last", Notes()).step == 5


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A recipe whose run goes back from step 2 to the base model, what it leaves, and how often it
    passes each place."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, passed = in_process(tune, tiny(folder, max_drift=1.6))
    assert code == 0
    record = read_journal(folder / "run" / "journal.jsonl")
    assert [(back.step, back.to) for back in record.backs] == [(2, 0)]
    return tiny(folder, max_drift=1.6), what_is_left(folder / "run"), passed


@pytest.mark.parametrize(
    ("place", "nth"),
    [
        ("journal", 2),  # step 2, the one that is taken back
        ("evaluation", 1),  # of step 2
        ("journal", 3),  # going back
        ("file", 9),  # the files that are cleared after it, and what follows
        ("file", 10),
        ("rename", 8),
        ("journal", 4),
    ],
)
def test_a_run_killed_around_a_back_and_resumed_is_the_one_never_killed(
    tmp_path, undisturbed, place, nth
):
    recipe, expected, passed = undisturbed
    recipe = replace(recipe, run=replace(recipe.run, dir=str(tmp_path / "run")))
    assert nth < passed[place]

    codes = [in_process(tune, recipe, place, nth)[0]]
    codes.append(in_process(resume, tmp_path / "run")[0])

    assert codes == [-9, 0]
    assert what_is_left(tmp_path / "run") == expected


@pytest.mark.parametrize("done", [3, 5, 6, 7])
def test_a_run_stopped_around_a_back_and_resumed_is_the_one_never_stopped(tmp_path, done):
    run_tuning(tiny(tmp_path, tmp_path / "whole"), Notes(), never)
    notes = Notes()
    run_tuning(tiny(tmp_path), notes, lambda: len(notes.steps) >= done)
    stopped = info_of(tmp_path / "run")["saved"]["step"]
    resume_tuning(tmp_path / "run", Notes(), never)

    assert stopped == {3: 3, 5: 5, 6: 4, 7: 5}[done]  # 6 went back to 4
    whole, run = (what_is_left(tmp_path / name) for name in ("whole", "run"))
    for what in ("journal", "weights", "saved", "drift"):
        assert run[what] == whole[what]


def test_two_ranks_go_back_together(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run_tuning(tiny(tmp_path, one), Notes(), never)
    ended = on_ranks(2, tune_on_ranks, tiny(tmp_path, two))

    assert [each.code for each in ended] == [0, 0]
    whole, run = map(what_is_left, (one, two))
    for what in ("journal", "weights", "snapshots"):
        assert run[what] == whole[what]


def test_an_anchor_that_moves_goes_back_too(tmp_path):
    moving = {"awd": 0.5, "norm": "l2", "move": "ema", "tau": 0.3, "max_drift": 2.6}
    whole, run = tmp_path / "whole", tmp_path / "run"
    outcome = run_tuning(tiny(tmp_path, whole, **moving), Notes(), never)
    assert outcome.backs
    notes = Notes()
    run_tuning(tiny(tmp_path, run, **moving), notes, lambda: len(notes.steps) >= 5)
    resume_tuning(run, Notes(), never)

    for name in ("journal.jsonl", "evals.jsonl", "model/model.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    anchors = [line["anchor"] for line in jsonl(run / "metrics.jsonl")]
    assert anchors == [line["anchor"] for line in jsonl(whole / "metrics.jsonl")]
    assert all(check.result == OK for check in checks_of(run, Notes(), RebuildOptions()))
