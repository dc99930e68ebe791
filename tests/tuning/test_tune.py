import json
import math
import threading
import time
from dataclasses import replace

import pytest
import torch
from records import an_info
from tiny_models import tiny_llama, tiny_qwen2
from tiny_runs import Notes, a_recipe, given_rewards, info_of, jsonl, never
from transformers import AutoModelForCausalLM, AutoTokenizer

from esft.engine import Drift
from esft.engine.journal import Journal, unpack
from esft.engine.journal_read import read_journal
from esft.engine.weights import identity
from esft.errors import AnchorError, ModelError, RunError
from esft.models.load import load_model
from esft.recipe.settings import Run
from esft.recipe.toml import load_recipe
from esft.runs.folder import RunFolder, create_run
from esft.runs.records import metrics
from esft.runs.steps import sum_of_times
from esft.tuning.population import Population
from esft.tuning.rebuild import find_source, rebuild
from esft.tuning.start import resume_tuning, run_tuning


def tuned_weights(run_path):
    model = AutoModelForCausalLM.from_pretrained(run_path / "model")
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].view(torch.uint8).equal(right[name].view(torch.uint8)) for name in left
    )


def test_a_run_leaves_the_whole_run_folder(tmp_path):
    outcome = run_tuning(a_recipe(tmp_path), Notes(), never)

    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        *("recipe.toml", "run.json", "journal.jsonl", "metrics.jsonl", "evals.jsonl"),
        *("evals", "drift", "model", ".lock"),
    }
    assert load_recipe(str(run / "recipe.toml"), {}) == a_recipe(tmp_path)
    assert [line.get("step") for line in jsonl(run / "journal.jsonl")] == [None, 1, 2, 3]
    assert [line["step"] for line in jsonl(run / "metrics.jsonl")] == [1, 2, 3]
    evals = jsonl(run / "evals.jsonl")
    assert [(line["step"], line["role"]) for line in evals] == [(0, "target"), (3, "target")]
    assert evals[1]["reward"] == outcome.tuned.reward
    assert len(jsonl(run / "evals" / "conciseness-3.jsonl")) == 5
    info = info_of(run)
    base = load_model(str(tmp_path / "base"), device="cpu").model
    assert info["state"] == "finished"
    assert info["model"]["base"] == identity(base)
    assert outcome.steps == 3
    assert not outcome.stopped


def test_the_saved_model_answers_as_the_tuned_one(tmp_path):
    sessions = []

    def population(session):
        sessions.append(session)
        return Population(session)

    model = tiny_qwen2(dtype=torch.bfloat16)
    run_tuning(a_recipe(tmp_path, model=model, sigma=0.1), Notes(), never, population)

    in_memory = sessions[0].base.loaded.model
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    tokens = torch.arange(5, 45).view(2, 20)
    with torch.no_grad():
        assert saved.dtype == torch.bfloat16
        assert saved(tokens).logits.equal(in_memory(tokens).logits)
        assert not saved(tokens).logits.equal(
            AutoModelForCausalLM.from_pretrained(tmp_path / "base")(tokens).logits
        )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert tokenizer.chat_template == sessions[0].base.loaded.tokenizer.chat_template


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    def run(name, seed):
        recipe = replace(a_recipe(tmp_path, seed=seed), run=Run(dir=str(tmp_path / name)))
        run_tuning(recipe, Notes(), never)
        return (tmp_path / name / "journal.jsonl").read_bytes(), tuned_weights(tmp_path / name)

    first, again, zero = run("first", 42), run("again", 42), run("zero", 0)

    assert first[0] == again[0]
    assert same(first[1], again[1])
    assert first[0] != zero[0]
    assert not same(first[1], zero[1])


def test_a_folder_that_was_named_and_is_taken_meanwhile_is_refused(tmp_path):
    notes, run = Notes(), tmp_path / "run"
    notes.phase = lambda text: create_run(run, "", an_info(), {}) if not run.exists() else None

    with pytest.raises(RunError, match=r"run folder .*run exists, expected a new name") as caught:
        run_tuning(a_recipe(tmp_path), notes, never)

    assert f"esft resume {run} goes on with it" in caught.value.hint
    assert jsonl(run / "journal.jsonl")[0].keys() == {"format", "checksum"}


def test_a_seed_that_is_not_given_is_drawn_and_recorded(tmp_path):
    run_tuning(a_recipe(tmp_path, seed=None, steps=1), Notes(), never)

    seed = load_recipe(str(tmp_path / "run" / "recipe.toml"), {}).search.seed
    assert isinstance(seed, int)
    assert jsonl(tmp_path / "run" / "journal.jsonl")[0]["seed"] == seed


def test_n_steps_make_n_updates_each_with_every_member(tmp_path):
    notes, sessions = Notes(), []

    def population(session):
        sessions.append(session)
        return given_rewards(*[0.1, 0.2, 0.3, 0.4] * 5)(session)

    run_tuning(a_recipe(tmp_path, steps=5), notes, never, population)

    assert sessions[0].base.drift.steps == 5
    assert [step.members for step in notes.steps] == [4] * 5
    assert [told[:2] for told in notes.left] == [(done, 4) for done in range(1, 5)] * 5


def test_every_step_has_rows_of_its_own_until_all_were_seen(tmp_path):
    seen = []

    class Noting(Population):
        def roll_out(self, members, rows, on_members, laps):
            seen.append([one.row.id for one in rows])
            return super().roll_out(members, rows, on_members, laps)

    run_tuning(a_recipe(tmp_path, task={"rows_per_step": 2}), Notes(), never, Noting)

    # Three steps of two rows deal the six train rows once each.
    assert [len(rows) for rows in seen] == [2, 2, 2]
    assert len({row for rows in seen for row in rows}) == 6


def test_equal_rewards_leave_the_weights_and_are_said(tmp_path):
    notes = Notes()

    outcome = run_tuning(a_recipe(tmp_path, steps=2), notes, never, given_rewards(*[0.25] * 8))

    assert outcome.drift == 0
    assert notes.notices == [
        f"step {step}: all rewards are 0.25, so there is no update; the weights stay"
        for step in (1, 2)
    ]
    base = load_model(str(tmp_path / "base"), device="cpu").model
    assert same(dict(base.named_parameters()), tuned_weights(tmp_path / "run"))


def test_a_member_without_a_finite_reward_is_left_out_and_said(tmp_path):
    notes, rewards = Notes(), (0.1, math.nan, 0.2, 0.4)

    run_tuning(a_recipe(tmp_path, steps=1), notes, never, given_rewards(*rewards))

    assert notes.notices == ["step 1: 1 of 4 members gave no finite reward and are left out"]
    assert notes.steps[0].members == 3
    assert notes.steps[0].reward_mean == pytest.approx(0.7 / 3)
    coefficients = unpack(jsonl(tmp_path / "run" / "journal.jsonl")[1]["coefficients"])
    assert [math.isnan(c) for c in coefficients] == [False, True, False, False]


LOST = "1 of 4 members gave no finite reward and are left out, and so is 1 antithetic partner"
ALL_LOST = "2 of 4 members gave no finite reward and are left out, and so are 2 antithetic partners"


@pytest.mark.parametrize(
    ("rewards", "lost", "why", "members"),
    [
        ((0.1, math.nan, 0.2, 0.4), [LOST], [], 2),
        ((0.1, math.nan, math.inf, 0.4), [ALL_LOST], ["no antithetic pair is whole"], 0),
        ((math.nan, 0.5, 0.2, 0.2), [LOST], ["all rewards are 0.2"], 0),
        ((0.1, 0.1, 0.2, 0.2), [], ["the rewards within each antithetic pair are equal"], 4),
    ],
)
def test_dropped_partners_and_missing_updates_are_said(tmp_path, rewards, lost, why, members):
    notes, recipe = Notes(), a_recipe(tmp_path, steps=1, antithetic=True)

    outcome = run_tuning(recipe, notes, never, given_rewards(*rewards))

    told = [*lost, *(f"{text}, so there is no update; the weights stay" for text in why)]
    assert notes.notices == [f"step 1: {text}" for text in told]
    assert (outcome.drift == 0) == bool(why)
    assert notes.steps[0].members == members


def test_the_time_a_run_takes_is_told_from_several_members_without_the_first(tmp_path):
    class SlowFirst(Population):
        def roll_out(self, members, rows, on_members, laps):
            results = []
            for done, member in enumerate(members, start=1):
                time.sleep(1.0 if done == 1 else 0.05)
                results += super().roll_out([member], rows, lambda done: None, laps)
                on_members(done)
            return results

    notes, recipe = Notes(), a_recipe(tmp_path, anchor={"awd": 0.01}, steps=2, population=6)

    run_tuning(recipe, notes, never, SlowFirst)

    left = [left for _, _, left in notes.left]
    assert [told is not None for told in left] == [False] * 3 + [True] * 9
    # Eight members of two steps: their sleeps, and the little that a tiny model takes.
    assert 8 * 0.05 < left[3].run < 8 * 0.5
    assert 2 * 0.05 < left[3].step < left[3].run


def test_rows_left_out_as_repeated_are_said(tmp_path):
    prompts = {"train": "abcdefgA", "validation": "avwxyzw", "test": "b"}
    (tmp_path / "data").mkdir()
    for split, texts in prompts.items():
        rows = [json.dumps({"prompt": text, "answer": "yes"}) + "\n" for text in texts]
        (tmp_path / "data" / f"conciseness.{split}.jsonl").write_text("".join(rows))
    notes, data = Notes(), {"data_dir": str(tmp_path / "data")}

    run_tuning(a_recipe(tmp_path, task=data, steps=1), notes, never)

    (told,) = (text for _, text in notes.plans[0] if text.startswith("left out"))
    assert told.startswith("left out: 2 train and 2 validation rows; they ask what another")


def test_a_members_last_answers_are_graded_while_the_next_one_decodes(tmp_path):
    begun, met = [], []
    second = threading.Event()

    def watched(session):
        rollout, begin = session.rollout, session.rollout.begin
        grade = rollout.task.grade

        def noting(rows, grader):
            begun.append(len(rows))
            if len(begun) == 2:
                second.set()
            return begin(rows, grader)

        def late(row, answers):
            if begun:  # not for the base model
                met.append(second.wait(20))
            return grade(row, answers)

        rollout.begin, rollout.task = noting, replace(rollout.task, grade=late)
        return Population(session)

    run_tuning(a_recipe(tmp_path, steps=1), Notes(), never, watched)

    assert begun == [6] * 4
    assert met[:6] == [True] * 6  # those of the first member


def test_the_parts_of_a_steps_time_sum_to_it_and_waiting_for_grades_is_one(tmp_path):
    pause = 0.05

    def slowly_graded(session):
        task = session.rollout.task

        def grade(row, answers):
            time.sleep(pause)
            return task.grade(row, answers)

        session.rollout.task = replace(task, grade=grade)
        return Population(session)

    notes = Notes()

    outcome = run_tuning(a_recipe(tmp_path, steps=2), notes, never, slowly_graded)

    for step in notes.steps:
        assert math.fsum(vars(step.times).values()) == pytest.approx(step.seconds)
        # No decoding hides the six rows of the last member.
        assert step.times.grading > 5 * pause
        assert min(step.times.engine, step.times.rollout, step.times.other) > 0
    assert metrics(tmp_path / "run") == notes.steps
    assert outcome.times == sum_of_times(step.times for step in notes.steps)


def test_mostly_overflowing_members_end_the_run_with_the_last_good_model(tmp_path):
    rewards = (0.1, 0.2, 0.3, 0.4, math.nan, math.nan, math.inf, 0.2)

    with pytest.raises(RunError, match="step 2: 3 of 4 members gave no finite reward") as caught:
        run_tuning(a_recipe(tmp_path), Notes(), never, given_rewards(*rewards))

    assert "--dtype bfloat16" in caught.value.hint
    assert [line.get("step") for line in jsonl(tmp_path / "run" / "journal.jsonl")] == [None, 1]
    assert info_of(tmp_path / "run")["state"] == "failed"
    tuned_weights(tmp_path / "run")


def test_a_base_model_that_overflows_is_refused_before_the_first_step(tmp_path):
    model = tiny_llama(dtype=torch.float16)
    # Finite weights, whose products pass the largest float16.
    model.model.embed_tokens.weight.mul_(30000)
    model.model.layers[0].mlp.down_proj.weight.fill_(60000)

    with pytest.raises(RunError, match=r"base model gives NaN .* in torch.float16") as caught:
        run_tuning(a_recipe(tmp_path, model=model), Notes(), never)

    assert caught.value.hint == "take --dtype bfloat16 or float32"
    assert not (tmp_path / "run" / "model").exists()
    assert info_of(tmp_path / "run")["state"] == "failed"


def test_a_step_that_cannot_be_recorded_is_not_made(tmp_path, monkeypatch):
    one = replace(a_recipe(tmp_path, steps=1), run=Run(dir=str(tmp_path / "one")))
    run_tuning(one, Notes(), never)
    append = Journal.append

    def full(self, step):
        if step.step == 2:
            raise RunError("journal.jsonl cannot be written: No space left on device")
        append(self, step)

    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(RunError, match="No space left"):
        run_tuning(a_recipe(tmp_path), Notes(), never)

    journals = [(tmp_path / name / "journal.jsonl").read_bytes() for name in ("one", "run")]
    assert journals[0] == journals[1]
    assert same(tuned_weights(tmp_path / "one"), tuned_weights(tmp_path / "run"))


def test_an_error_after_a_step_saves_its_weights_as_those_of_that_step(tmp_path, monkeypatch):
    whole = replace(a_recipe(tmp_path), run=Run(dir=str(tmp_path / "whole")))
    run_tuning(whole, Notes(), never)
    record, run = RunFolder.record_metrics, tmp_path / "run"

    def full(self, metrics):
        if metrics.step == 2:
            raise RunError("metrics.jsonl cannot be written: No space left on device")
        record(self, metrics)

    with monkeypatch.context() as patches:
        patches.setattr(RunFolder, "record_metrics", full)
        with pytest.raises(RunError, match="No space left"):
            run_tuning(a_recipe(tmp_path), Notes(), never)

    saved = info_of(run)["saved"]
    assert saved["step"] == read_journal(run / "journal.jsonl").last == 2
    assert rebuild(find_source(str(run)), "2", Notes()).weights == saved["weights"]
    resume_tuning(run, Notes(), never)
    assert same(tuned_weights(run), tuned_weights(tmp_path / "whole"))
    assert [line["step"] for line in jsonl(run / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("dtype", "alpha"), [(torch.float16, 1e5), (torch.float32, 1e38), (torch.bfloat16, 1e300)]
)
def test_a_step_that_overflows_ends_the_run_also_when_it_is_the_last(tmp_path, dtype, alpha):
    recipe = a_recipe(tmp_path, model=tiny_llama(dtype=dtype), steps=1, alpha=alpha)
    notes, run = Notes(), tmp_path / "run"

    with pytest.raises(AnchorError, match=r"step 1 makes .* infinite"):
        run_tuning(recipe, notes, never, given_rewards(0.0, 0.0, 0.0, 4.0))

    assert not (run / "model").exists()
    assert info_of(run)["state"] == "failed"
    with pytest.raises(AnchorError, match=r"step 1 makes .* infinite"):
        rebuild(find_source(str(run)), "last", Notes())
    assert rebuild(find_source(str(run)), "0", Notes()).step == 0


def test_a_last_model_that_gives_nan_is_saved_and_the_run_failed(tmp_path):
    recipe = a_recipe(tmp_path, model=tiny_llama(dtype=torch.float16), steps=1, alpha=1e4)
    rewards = given_rewards(0.0, 0.0, 0.0, 4.0)

    with pytest.raises(RunError, match="model of step 1 gives NaN on holdout rows") as caught:
        run_tuning(recipe, Notes(), never, rewards)

    assert caught.value.hint == "take a smaller --alpha"
    assert info_of(tmp_path / "run")["state"] == "failed"
    assert jsonl(tmp_path / "run" / "evals.jsonl")[-1]["reward"] is None
    tuned_weights(tmp_path / "run")


def test_memory_that_runs_out_in_a_step_is_said_and_no_torn_model_is_saved(tmp_path, monkeypatch):
    update = Drift._update

    def cramped(self, *rest):
        update(self, *rest)
        if self.steps == 1:
            raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Drift, "_update", cramped)
    notes, rewards = Notes(), given_rewards(*[0.1, 0.2, 0.3, 0.4] * 2)

    with pytest.raises(ModelError, match="memory ran out in step 2, outside the rollouts"):
        run_tuning(a_recipe(tmp_path), notes, never, rewards)

    assert not (tmp_path / "run" / "model").exists()
    assert "model of step 1 was not saved: step 2 was not made whole" in notes.notices[-1]
    assert len(jsonl(tmp_path / "run" / "journal.jsonl")) == 3


def test_a_batch_too_large_is_split_recorded_and_changes_no_answer(tmp_path, monkeypatch):
    plain = run_tuning(a_recipe(tmp_path), Notes(), never)

    def cramped(session):
        batches = session.rollout.batches
        run = batches.run

        def limited(items, work, *rest):
            def work_within(batch):
                if len(batch) > 2:
                    raise torch.OutOfMemoryError("no room")
                return work(batch)

            return run(items, work_within, *rest)

        batches.run = limited
        return Population(session)

    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "empty"))
    notes = Notes()
    recipe = replace(a_recipe(tmp_path), run=Run(dir=str(tmp_path / "split")))

    split = run_tuning(recipe, notes, never, cramped)

    journals = [(tmp_path / name / "journal.jsonl").read_bytes() for name in ("run", "split")]
    assert journals[0] == journals[1]
    assert same(tuned_weights(tmp_path / "run"), tuned_weights(tmp_path / "split"))
    assert split.tuned.reward == plain.tuned.reward
    batches = info_of(tmp_path / "split")["batches"]
    assert batches == [[0, 64], [0, 2]]
    assert any("memory ran out" in notice for notice in notes.notices)


def test_globs_leave_parameters_alone(tmp_path):
    recipe = a_recipe(tmp_path)
    recipe = replace(recipe, model=replace(recipe.model, exclude=("*norm*", "*embed*")))

    run_tuning(recipe, Notes(), never)

    base = dict(load_model(str(tmp_path / "base"), device="cpu").model.named_parameters())
    tuned = tuned_weights(tmp_path / "run")
    stayed = {name for name in base if base[name].equal(tuned[name])}
    assert stayed == {name for name in base if "norm" in name or "embed" in name}


def test_the_first_lines_say_what_will_happen(tmp_path):
    notes = Notes()
    recipe = a_recipe(tmp_path, anchor={"awd": 10.0, "norm": "l2"}, steps=500, sigma=1e-5)

    run_tuning(recipe, notes, lambda: True)

    (plan,) = notes.plans
    text = "\n".join(" ".join(line) for line in plan)
    for expected in (
        "float32 on cpu",
        "conciseness by generate up to 6 tokens, 64 sequences at a time: 6 train rows",
        "5 holdout",
        "500 steps, N 4, sigma 1e-05, alpha 0.02, zscore, seed 1",
        "L2, alpha * lambda 0.2 a step, half-life 4 steps",
        "undone to the bit, from the drift kept in float16 and base weights copied on the host",
        str(tmp_path / "run"),
    ):
        assert expected in text
