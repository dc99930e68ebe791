"""Members that share batches get the rewards that they get one after the other."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from some_weights import bits_of
from tiny_models import tiny_qwen2
from tiny_runs import Notes, a_recipe, write_arc

from esft.engine.members import population
from esft.engine.perturb import visiting
from esft.errors import RecipeError
from esft.recipe.settings import with_settings
from esft.recipe.toml import load_recipe
from esft.rollout.batches import Batches
from esft.rollout.rollout import Rollout
from esft.tuning.plan import tell_plan, work_lines
from esft.tuning.population import Laps, Population, groups
from esft.tuning.session import open_session

SIGMA, MEMBERS = 0.05, 6
WAYS = {
    "generate": {},
    "logprob": {"task.reward": "logprob"},
    "choice": {"task.name": "arc-easy", "task.reward": "prob"},
    "exact": {"task.name": "reverse-letters", "task.scoring": "exact", "task.reward": "logprob"},
}


def a_session(folder, way="generate", batch=16, **changes):
    if not (folder / "rows").exists():
        write_arc(folder / "rows", rows=9)
    recipe = a_recipe(folder, model=tiny_qwen2(), sigma=SIGMA, population=MEMBERS)
    settings = {"search.noise": "lowrank"}
    if way == "choice":
        settings["task.data_dir"] = str(folder / "rows")
    session = open_session(with_settings(recipe, settings | WAYS[way] | changes))
    session.rollout.batches.size = batch
    return session


def one_at_a_time(session, members, rows):
    results = []
    sigma = session.recipe.search.sigma
    with visiting(session.base.weights, sigma, session.base.drift) as visit:
        for member in members:
            visit(member)
            results.append(session.rollout.roll_out(rows))
    return results


def rolled_out(session, members, rows, told=None):
    laps = Laps(torch.device("cpu"))
    told = [] if told is None else told
    return Population(session).roll_out(members, rows, told.append, laps)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_rewards_and_answers_are_those_of_each_member_alone(tmp_path, way, antithetic):
    session = a_session(tmp_path, way)
    members = population(1, 1, MEMBERS, antithetic)
    before = bits_of(session.base.weights)

    results = rolled_out(session, members, session.train)

    alone = one_at_a_time(session, members, session.train)
    assert len({row.reward for member in alone for row in member}) >= 4  # they differ
    for shared, one in zip(results, alone, strict=True):
        assert [row.answers for row in shared] == [row.answers for row in one]
        assert [row.reward for row in shared] == pytest.approx(
            [row.reward for row in one], rel=1e-5
        )
    assert bits_of(session.base.weights) == before


def test_the_embedded_model_scores_as_each_member_alone():
    changes = {"search.noise": "lowrank", "search.seed": 1, "task.rows_per_step": 8}
    session = open_session(load_recipe("quickstart", changes))
    members = population(1, 1, MEMBERS)

    results = rolled_out(session, members, session.train[:8])

    alone = one_at_a_time(session, members, session.train[:8])
    rewards = [row.reward for member in alone for row in member]
    assert session.members_together > 1
    assert [row.reward for member in results for row in member] == pytest.approx(rewards, rel=1e-4)
    for shared, one in zip(results, alone, strict=True):
        assert [row.answers for row in shared] == [row.answers for row in one]


def test_the_drift_of_steps_made_is_in_all_of_them(tmp_path):
    session = a_session(tmp_path, "logprob")
    members = population(1, 2, MEMBERS)
    at_base = rolled_out(session, members, session.train)
    session.base.drift.step(members, [1.0, -1.0, 0.5, 0.5, -0.5, -0.5], 0.3, 0.0, "l1")

    results = rolled_out(session, members, session.train)

    rewards = [row.reward for member in results for row in member]
    alone = one_at_a_time(session, members, session.train)
    assert rewards == pytest.approx([row.reward for member in alone for row in member], rel=1e-5)
    assert rewards != pytest.approx([row.reward for member in at_base for row in member])


@pytest.mark.parametrize(
    ("batch", "rows", "sizes"),
    [(16, 6, [2, 2, 2]), (24, 6, [4, 2]), (4, 6, [1] * 6), (64, 6, [6]), (64, 1, [6])],
)
def test_so_many_members_share_a_batch_as_fill_it(tmp_path, batch, rows, sizes):
    session = a_session(tmp_path, batch=batch, **{"task.rows_per_step": rows})
    members = population(1, 1, MEMBERS)
    told = []

    results = rolled_out(session, members, session.train[:rows], told)

    assert list(map(len, groups(members, session.members_together))) == sizes
    assert told == [sum(sizes[: at + 1]) for at in range(len(sizes))]
    assert [len(of_member) for of_member in results] == [rows] * MEMBERS


@given(st.integers(1, 20), st.booleans(), st.integers(1, 9), st.data())
def test_some_of_the_groups_are_the_same_groups_among_themselves(half, pairs, together, data):
    members = population(1, 1, 2 * half, pairs)
    all_of_them = groups(members, together)
    chosen = data.draw(st.sets(st.sampled_from(range(len(all_of_them)))))
    some = [[members[at] for at in all_of_them[number]] for number in sorted(chosen)]

    again = [member for group in some for member in group]

    assert [at for group in all_of_them for at in group] == list(range(len(members)))
    assert all(len(group) <= max(together, 2) for group in all_of_them)
    for one, following in pairwise(all_of_them):  # no pair is apart
        assert members[one[-1]].seed != members[following[0]].seed
    assert [[again[at] for at in group] for group in groups(again, together)] == some


def test_a_batch_that_does_not_fit_is_halved_and_its_members_stay_theirs(tmp_path, monkeypatch):
    session = a_session(tmp_path, "logprob", batch=36)
    members = population(1, 1, MEMBERS)
    whole = rolled_out(session, members, session.train)
    read = session.base.loaded.model.forward

    def forward(*args, input_ids, **inputs):
        if len(input_ids) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(*args, input_ids=input_ids, **inputs)

    monkeypatch.setattr(session.base.loaded.model, "forward", forward)

    results = rolled_out(session, members, session.train)

    assert session.rollout.batches.size == 9
    for one, other in zip(results, whole, strict=True):
        assert [row.reward for row in one] == pytest.approx([row.reward for row in other], rel=1e-5)


def test_with_full_noise_each_member_is_alone(tmp_path):
    session = a_session(tmp_path, **{"search.noise": "full"})
    members = population(1, 1, MEMBERS)

    assert session.members_together == 1
    results = rolled_out(session, members, session.train)
    assert results == one_at_a_time(session, members, session.train)


@pytest.mark.parametrize("noise", ["full", "lowrank"])
def test_the_weights_are_back_before_an_error_is_seen(tmp_path, monkeypatch, noise):
    session = a_session(tmp_path, batch=6, **{"search.noise": noise})
    before, begun = bits_of(session.base.weights), []

    def begin(rows, grader):
        begun.append(bits_of(session.base.weights))
        return grades

    def grades():
        raise ZeroDivisionError

    monkeypatch.setattr(Rollout, "begin", lambda self, *args: begin(*args))

    try:
        rolled_out(session, population(1, 1, MEMBERS), session.train)
    except ZeroDivisionError:
        assert bits_of(session.base.weights) == before  # also while the error holds its frames
    assert (begun == [before, before]) is (noise == "lowrank")


def test_a_member_that_overflows_leaves_the_others_finite(tmp_path):
    session = a_session(tmp_path, "logprob")
    members = population(1, 1, 3)
    batched = session.batched

    with batched.members(members, SIGMA):
        for noise in batched._noises.parameters.values():
            if noise.right is not None:
                noise.left[1] = noise.right[1] = torch.finfo(torch.float32).max
        rows = [row.of(member) for member in range(3) for row in session.train[:2]]
        rollout = replace(session.rollout, model=batched, batches=Batches(6))
        rewards = [result.reward for result in rollout.roll_out(rows)]

    assert [math.isfinite(reward) for reward in rewards] == [True, True, False, False, True, True]


def test_a_model_whose_matrices_are_read_otherwise_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: x @ self.weight.T)

    with pytest.raises(RecipeError, match=r"q_proj\.weight is not read by a linear") as refused:
        a_session(tmp_path)

    assert "--set model.exclude" in refused.value.hint


@pytest.mark.parametrize(
    ("batch", "said"),
    [(16, "2 members share a batch, 12 sequences"), (6, "no batch is shared: the 6 sequences of")],
)
def test_the_plan_says_how_many_share_a_batch_and_what_their_noise_takes(tmp_path, batch, said):
    session = a_session(tmp_path, batch=batch)

    lines, _ = work_lines(session, 1)

    assert said in " ".join(text for _, text in lines)
    tried, evaluated = (
        [one for one in session.batches if bool(one.noise) is tries] for tries in (True, False)
    )
    with session.batched.members(population(1, 1, session.members_together), SIGMA):
        held = [vars(noise).values() for noise in session.batched._noises.parameters.values()]
    taken = sum(one.nbytes for vectors in held for one in vectors if one is not None)
    assert {one.noise for one in tried} == {taken}
    assert max(one.sequences for one in tried) == 6 * session.members_together
    assert max(one.sequences for one in evaluated) == min(batch, 5)  # of the holdout rows


def test_the_plan_says_where_texts_are_too_long_for_it(tmp_path):
    long = a_session(tmp_path, batch=64, **{"task.max_new_tokens": 400})

    assert "so long that it brings little" in " ".join(text for _, text in work_lines(long, 1)[0])


def test_no_weight_rounds_a_trial_away_so_the_plan_warns_of_none(tmp_path):
    session = a_session(tmp_path, **{"search.sigma": 1e-9, "model.dtype": "bfloat16"})

    tell_plan([session], tmp_path, notes := Notes())

    assert not [text for text in notes.notices if "too small to move" in text]
    assert "no trial changes a weight" in str(notes.plans)
