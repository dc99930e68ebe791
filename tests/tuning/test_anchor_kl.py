"""The anchor in distribution: which prompts, how far a member is, and what a run makes of it."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rank_runs import on_ranks, tune
from tiny_runs import Notes, a_recipe, jsonl, never

from esft.engine.journal_read import read_journal
from esft.engine.members import population, shape
from esft.engine.perturb import visiting
from esft.errors import EsftError, RecipeError, TaskError
from esft.recipe.toml import load_recipe
from esft.tasks.task import Row, ask
from esft.tuning.anchor_kl import AnchorKl, AnchorPrompts
from esft.tuning.plan import work_lines
from esft.tuning.probe import _tried
from esft.tuning.session import open_session
from esft.tuning.start import resume_tuning, run_tuning


def quickstart(**changes):
    """Return a session of the quickstart with an anchor in distribution."""
    given = {"anchor.kl": 1.0, "anchor.kl_prompts": 4, "task.holdout": 20, "prior.rows": 20}
    names = {key.replace("__", "."): value for key, value in changes.items()}
    return open_session(load_recipe("quickstart", given | names))


def tiny(folder, **anchor):
    (folder / "prompts.txt").write_text("Say one.\n\nSay two things.\nSay three or four.\n")
    anchor = {"kl": 2.0, "kl_prompts": 3, "kl_tasks": [str(folder / "prompts.txt")]} | anchor
    return a_recipe(folder, anchor=anchor, steps=4)


@given(
    st.dictionaries(st.text("abc"), st.integers(1, 9), min_size=1),
    st.integers(1, 40),
)
def test_turns_have_each_prompt_once_tasks_mixed_and_no_more_than_a_step_looks_at(sizes, per_step):
    of = {name: tuple((name, at) for at in range(size)) for name, size in sizes.items()}
    prompts = AnchorPrompts(of=of, new_tokens=4, per_step=per_step, share=0.1)

    turns = prompts.turns
    flat = [one for turn in turns for one in turn]

    assert sorted(flat) == sorted(one for some in of.values() for one in some)
    assert [at for _, at in flat] == sorted(at for _, at in flat)
    assert max(map(len, turns)) <= per_step
    assert max(map(len, turns)) - min(map(len, turns)) <= 1


def test_no_prompt_asks_what_a_row_asks_that_is_measured():
    session = quickstart()
    measured = {prompt for task in session.tasks for row in task.encoded for prompt in asked(row)}

    prompts = [prompt for some in session.prompts.of.values() for prompt in some]

    assert len(prompts) == len(set(prompts)) == 24
    assert not measured & set(prompts)


def test_of_a_task_that_is_measured_on_its_train_rows_others_are_taken():
    prior = ("copy-letters:20 split=train",)
    session = quickstart(prior__tasks=prior, anchor__kl_tasks=("copy-letters",))
    measured = {prompt for row in session.tasks[1].encoded for prompt in asked(row)}

    assert len(measured) == 20
    assert not measured & {one for some in session.prompts.of.values() for one in some}


def asked(row):
    return [one.tokens[: len(one.tokens) - len(one.targets) + 1] for one in row.references]


def test_a_step_looks_at_as_many_prompts_as_make_about_a_seventh_of_its_tokens():
    session = quickstart(anchor__kl_prompts=16)
    prompts, rows = session.prompts, sum(map(session.rollout.tokens, session.train)) / 2000 * 96

    assert 0.1 < prompts.share <= 0.15
    assert sum(len(one) + 4 for one in prompts.turns[0]) / rows == pytest.approx(
        prompts.share, abs=0.04
    )
    few = quickstart(anchor__kl_per_step=2).prompts
    assert few.per_step == 2
    assert {len(turn) for turn in few.turns} == {2}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_model_is_no_nat_from_itself_in_any_turn(dtype):
    session = quickstart(anchor__kl_per_step=5, model__dtype=dtype)

    assert [session.anchor_kl.of_model(step) for step in range(1, 8)] == [0.0] * 7


def test_where_the_anchor_moves_members_are_compared_with_it_on_the_bases_continuations():
    session = quickstart(anchor__move="ema", anchor__awd=0.1, anchor__kl_per_step=6)
    kl, drift = session.anchor_kl, session.base.drift
    for step in (1, 2):
        members = population(1, step, 4, False)
        drift.step(members, [1.5, -0.5, -1.25, 0.25], 0.05, 0.1, "l2", tau=0.5)
    base, ahead = [one.continuation for one in kl._turns[1]], kl.of_model(2)

    with drift.at_anchor():
        far = kl.of_model(2)
        kl.tell_anew(2)
        there = kl.of_model(2)
    now = kl.of_model(2)

    assert there == 0
    assert 0 < now < ahead
    assert 0 < far < ahead
    assert [one.continuation for one in kl._told[2]] == base
    assert kl.of_model(3) > 0  # of another step: the base again, until that is told


def test_members_of_a_run_are_compared_with_the_anchor_of_the_step_before(tmp_path):
    steps = {}
    for move in ("none", "ema"):
        anchor = {"awd": 0.1, "move": move} | ({"tau": 1.0} if move == "ema" else {})
        recipe = tiny(tmp_path, **anchor)
        recipe = replace(recipe, run=replace(recipe.run, dir=str(tmp_path / move)))
        run_tuning(recipe, Notes(), never)
        steps[move] = read_journal(tmp_path / move / "journal.jsonl").steps

    # The anchor follows after a step, so that the weights of the second are still the same.
    (first, second), (same, other) = steps["none"][:2], steps["ema"][:2]
    assert (same.rewards, same.kl) == (first.rewards, first.kl)
    assert other.rewards == second.rewards
    assert sum(other.kl) < 0.9 * sum(second.kl)


def test_a_member_is_as_far_as_the_distributions_over_the_whole_vocabulary_say():
    session = quickstart(anchor__kl_per_step=6)
    base, member = session.base, population(1, 1, 2, False)[0]
    anchor = session.anchor_kl._turns[1]

    def whole():
        """Return the log-probabilities of all tokens, position by position."""
        rows = []
        for one in anchor:
            ids = torch.tensor([one.continuation.tokens])
            logits = base.loaded.model(ids).logits[0, -len(one.continuation.targets) :]
            rows.append(logits.double().log_softmax(-1))
        return torch.cat(rows)

    with torch.inference_mode():
        before = whole()
        with visiting(base.weights, 0.05, base.drift) as visit:
            visit(member)
            made, after = session.anchor_kl.of_model(2), whole()
    exact = (before.exp() * (before - after)).sum(-1).mean().item()

    assert exact > 0.01
    assert made == pytest.approx(exact, rel=0.03)
    assert session.anchor_kl.of_model(2) == 0.0


def test_members_that_share_a_batch_are_as_far_as_they_are_one_by_one():
    session = quickstart(search__noise="lowrank", anchor__kl_per_step=6)
    members, base = population(1, 1, 4, True), session.base
    alone = []
    with visiting(base.weights, 0.05, base.drift) as visit:
        for member in members:
            visit(member)
            alone.append(session.anchor_kl.of_model(3))

    with session.batched.members(members, 0.05):
        together = session.anchor_kl.of_members(3, 4)

    assert together == pytest.approx(alone, rel=1e-3)
    assert len(set(together)) == 4


@pytest.mark.parametrize("changes", [{}, {"noise": "lowrank", "rank": 1}])
def test_members_are_ranked_by_reward_less_penalty_and_both_are_recorded(tmp_path, changes):
    recipe = tiny(tmp_path)
    recipe = replace(recipe, search=replace(recipe.search, **changes))
    run_tuning(recipe, Notes(), never)
    record = read_journal(tmp_path / "run" / "journal.jsonl")
    lines = jsonl(tmp_path / "run" / "metrics.jsonl")

    for step, line in zip(record.steps, lines, strict=True):
        aims = [reward - 2.0 * kl for reward, kl in zip(step.rewards, step.kl, strict=True)]
        assert step.coefficients == pytest.approx(shape(aims, "zscore", False), abs=1e-3)
        assert line["kl"] == pytest.approx(math.fsum(step.kl) / 4)
        assert line["penalty"] == pytest.approx(2.0 * line["kl"])
        assert line["reward_mean"] == pytest.approx(math.fsum(step.rewards) / 4)
        assert line["times"]["anchor"] > 0
        assert all(kl > 0 for kl in step.kl)


def test_a_trial_of_sigmas_asks_for_no_kl_that_nobody_looks_at(monkeypatch):
    session, asked = quickstart(), []
    monkeypatch.setattr(AnchorKl, "of_model", lambda self, step: asked.append(step) or 0.0)
    rows = session.train[:4]

    made = _tried(session, 0.005, Notes(), population(1, 1, 2, False), rows)

    assert len(made) == 2
    assert not asked


def test_without_a_kl_a_run_is_as_before_and_its_journal_has_none(tmp_path):
    run_tuning(a_recipe(tmp_path), Notes(), never)

    assert all("kl" not in line for line in jsonl(tmp_path / "run" / "journal.jsonl"))
    assert all(line["kl"] is None for line in jsonl(tmp_path / "run" / "metrics.jsonl"))


def test_a_run_that_goes_on_and_one_on_two_ranks_end_as_one_that_never_stopped(tmp_path):
    whole, stopped, ranks = (tmp_path / name for name in ("whole", "stopped", "ranks"))
    for folder in (whole, stopped, ranks):
        folder.mkdir()
    file = whole / "prompts.txt"
    run_tuning(tiny(whole, kl_per_step=1), Notes(), never)

    recipe = tiny(stopped, kl_per_step=1, kl_tasks=[str(file)])
    run_tuning(recipe, Notes(), iter([False, True]).__next__)
    resume_tuning(stopped / "run", Notes(), never)
    ended = on_ranks(2, tune, tiny(ranks, kl_per_step=1, kl_tasks=[str(file)]))

    assert [one.code for one in ended] == [0, 0]
    was = read_journal(whole / "run" / "journal.jsonl")
    for folder in (stopped, ranks):
        now = read_journal(folder / "run" / "journal.jsonl")
        assert now.steps == was.steps
    weights = [
        (folder / "run" / "model" / "model.safetensors").read_bytes()
        for folder in (whole, stopped, ranks)
    ]
    assert all(one == other for one, other in pairwise(weights))


def test_a_run_with_other_prompts_is_another_run(tmp_path):
    run_tuning(tiny(tmp_path), Notes(), iter([True]).__next__)
    (tmp_path / "prompts.txt").write_text("Say one.\nSay two things.\nSay five.\n")

    with pytest.raises(EsftError, match="rows anchor prompts is 3 rows of hash"):
        resume_tuning(tmp_path / "run", Notes(), never)


def test_prompts_that_are_measured_are_refused_line_by_line(tmp_path):
    recipe = tiny(tmp_path)
    session = open_session(recipe)
    row = session.tasks[0].encoded[0].row
    question = row.shown["question"]
    (tmp_path / "prompts.txt").write_text(f"Say one.\n{question.upper()}\nSay three.\n")

    assert Row(id="", questions=(ask(question.upper()),)).key == row.key
    with pytest.raises(RecipeError, match=r"prompts.txt: line 2 asks what a row asks") as caught:
        open_session(recipe)
    assert caught.value.hint == "take these lines out"

    inside = question.split(maxsplit=1)[1]
    (tmp_path / "prompts.txt").write_text(f"Say one.\nSay two.\n\n{inside}\n")
    with pytest.raises(RecipeError, match="line 4 asks"):
        open_session(recipe)


def test_too_few_prompts_are_refused_with_the_number_there_is(tmp_path):
    recipe = tiny(tmp_path, kl_prompts=9)

    with pytest.raises(RecipeError, match=r"has 3 prompts, one a line, expected 9") as caught:
        open_session(recipe)
    assert caught.value.hint == "add lines, or set anchor.kl_prompts to 3"

    with pytest.raises(TaskError, match=r"has .* rows that nothing is measured on, expected 10000"):
        quickstart(anchor__kl_prompts=10_000)


def test_the_plan_says_what_it_costs_and_takes_a_subset_of_the_prior_tasks():
    session = quickstart(anchor__kl_tasks=("copy-letters", "sort-digits"), anchor__kl_per_step=4)
    lines, _ = work_lines(session, 10)

    assert list(session.prompts.of) == ["copy-letters", "sort-digits"]
    text = dict(lines)["anchor"]
    assert "on 8 prompts of copy-letters, sort-digits, 4 a step in turn, up to 16 new" in text
    assert f"{session.prompts.share:.0%} more tokens a member" in text
