"""The processes of a torchrun: what they come to together, and how they end together."""

import itertools
import math
import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rank_runs import measure, on_ranks, resume, spoil, tune
from tiny_models import tiny_llama
from tiny_runs import a_recipe, info_of, jsonl

import esft.tuning.ranks
from esft.engine.drift import Drift
from esft.engine.members import Member
from esft.errors import TaskError
from esft.evals.run import EvalRequest
from esft.recipe.anchor import Anchor
from esft.recipe.settings import Prior, Run
from esft.rollout.batches import Batches
from esft.rollout.results import RowResult
from esft.rollout.rollout import Rollout
from esft.runs.folder import RunFolder
from esft.tuning.lead import Spread, deal
from esft.tuning.population import Laps, Population
from esft.tuning.ranks import Place

KINDS = {
    "float32": {"model": tiny_llama, "noise": {}},
    "bfloat16": {
        "model": lambda: tiny_llama(dtype=torch.bfloat16),
        "noise": {"noise": "lowrank", "rank": 2, "anneal": "linear", "sigma_end": 0.5},
    },
    "int8": {
        "model": tiny_llama,
        "noise": {"sigma": 0.3, "alpha": 1.5, "steps": 2},
        "weights": "int8",
    },
    "a moving anchor": {
        "model": tiny_llama,
        "noise": {},
        "anchor": {"awd": 0.5, "move": "ema", "tau": 0.3, "kl": 1.0, "kl_prompts": 3},
    },
    "int4 of low rank": {
        "model": tiny_llama,
        "noise": {"noise": "lowrank", "sigma": 0.01, "alpha": 0.02, "steps": 2},
        "weights": "int4",
    },
}


def recipe_in(folder, name="run", kind="float32", **changes):
    """Return a recipe with pairs, prior tasks and evaluations on the way."""
    kind = KINDS[kind]
    task = {"reward": "logprob", "train": 8, "holdout": 70, "rows_per_step": 4, "batch": 8}
    search = {"antithetic": True, "population": 6, "steps": 3} | kind["noise"] | changes
    recipe = a_recipe(folder, model=kind["model"](), task=task, **search)
    prior = Prior(tasks=("copy-letters", "countdown max_new_tokens=2"), every=2, rows=3)
    anchor = Anchor(**kind.get("anchor", {}))
    weights = {"weights": kind.get("weights", "float")}
    recipe = replace(
        recipe,
        model=replace(recipe.model, **weights),
        task=replace(recipe.task, name="subtract-two-digits"),
        prior=prior,
        anchor=anchor,
    )
    return replace(recipe, run=Run(dir=str(folder / name), snapshot_every=2))


def what_is_left(run):
    """What must not depend on ranks."""
    rows = {file.name: file.read_bytes() for file in (run / "evals").iterdir()}
    return {
        "journal": (run / "journal.jsonl").read_bytes(),
        "weights": (run / "model" / "model.safetensors").read_bytes(),
        "evals": (run / "evals.jsonl").read_bytes(),
        "drift": [(line["drift"], line.get("changed")) for line in jsonl(run / "metrics.jsonl")],
        "saved": info_of(run)["saved"],
        "snapshots": {file.name: file.read_bytes() for file in (run / "drift").iterdir()},
        **rows,
    }


@pytest.fixture(scope="module")
def alone(request, tmp_path_factory):
    """Return the folder of a run of one process, and the kind of its model."""
    folder = tmp_path_factory.mktemp("ranks")
    (ended,) = on_ranks(1, tune, recipe_in(folder, "alone", request.param))
    assert ended.value == []
    assert ended.code == 0
    return folder, request.param


@pytest.mark.parametrize(
    ("alone", "world"),
    [("float32", 2), ("int8", 2), ("bfloat16", 4), ("int4 of low rank", 2), ("a moving anchor", 2)],
    indirect=["alone"],
)
def test_ranks_leave_what_one_process_leaves(alone, world):
    folder, kind = alone

    ended = on_ranks(world, tune, recipe_in(folder, f"of-{world}", kind))

    assert [one.code for one in ended] == [0] * world
    idle = "".join(text for text in ended[0].value if "nothing to do" in text)
    assert idle.startswith("4 ranks share 3 groups of members a step" if world > 3 else "")
    left = what_is_left(folder / f"of-{world}")
    steps = recipe_in(folder, kind=kind).search.steps
    assert len(set(left["journal"].split(b"\n")[1 : steps + 1])) == steps
    assert left == what_is_left(folder / "alone")
    for line in jsonl(folder / f"of-{world}" / "metrics.jsonl"):
        shares = [rank["members"] for rank in line["ranks"]]
        assert (len(shares), sum(shares)) == (world, 6)
        assert all(share % 2 == 0 for share in shares)  # pairs stay together
    first, *_ = jsonl(folder / f"of-{world}" / "metrics.jsonl")
    assert [rank["members"] for rank in first["ranks"]] == {2: [4, 2], 4: [2, 2, 2, 0]}[world]


@pytest.mark.parametrize("alone", ["bfloat16"], indirect=True)
def test_a_rank_killed_ends_the_others_and_the_run_goes_on_to_the_same_bits(alone):
    folder, kind = alone
    recipe = recipe_in(folder, "killed", kind)
    killed = [(1, (Rollout, "begin"), 0), (0, (RunFolder, "record_metrics"), 1)]

    for restarts, (rank, *where) in enumerate(killed):
        # As torchrun --max-restarts does: the same command again, which goes on with its run.
        ended = on_ranks(2, tune, recipe, None, (rank, *where), restarts=restarts)

        assert ended[rank].code == -9
        other = ended[1 - rank]
        assert other.code == 1
        assert str(other.error).startswith(f"rank {rank} of 2: it is gone")
        assert "esft resume" in other.error.hint
        assert not other.error.quiet
    assert len(jsonl(folder / "killed" / "metrics.jsonl")) == 1
    (ended,) = on_ranks(1, resume, folder / "killed")
    assert ended.code == 0, ended.error
    assert what_is_left(folder / "killed") == what_is_left(folder / "alone")


@pytest.mark.parametrize("alone", ["bfloat16"], indirect=True)
def test_ranks_measure_what_one_process_measures(alone):
    folder, _ = alone
    request = EvalRequest(run=str(folder / "alone"), kl_prompts=2, kl_tokens=4)

    (one,) = on_ranks(1, measure, request)
    leader, follower = on_ranks(2, measure, request)

    assert (leader.code, follower.code) == (0, 0)
    assert leader.value == one.value
    assert len(one.value.tasks[1].kl) == 1
    assert {score.step for score in one.value.tasks[0].evaluations} == {0, 2, 3}


def test_a_rank_whose_weights_become_others_is_named_at_the_end(tmp_path):
    recipe = recipe_in(tmp_path)

    leader, follower = on_ranks(2, tune, recipe, None, (1, (Drift, "step"), 1, spoil))

    assert (leader.code, follower.code) == (1, 1)
    assert str(leader.error).startswith("after step 3 rank 1 of 2 has other weights than rank 0")
    assert "esft replay --at 0" in leader.error.hint
    assert info_of(tmp_path / "run")["state"] == "failed"


def test_a_rank_with_another_recipe_is_refused_by_name(tmp_path):
    recipe = recipe_in(tmp_path)
    other = replace(recipe, search=replace(recipe.search, sigma=0.5))

    leader, follower = on_ranks(2, tune, recipe, {1: other})

    assert (leader.code, follower.code) == (1, 1)
    what = "recipe search.sigma is 0.5, rank 0 has 0.02"
    assert str(leader.error) == f"rank 1 of 2 is not as rank 0: {what}"
    assert leader.error.hint is not None
    assert follower.error.quiet
    assert not (tmp_path / "run").exists()


def tell_and_fail(ranks, how):
    """Send what is hard to send there and back; then let rank 1 end otherwise than rank 2."""
    esft.tuning.ranks.SLOW_S, esft.tuning.ranks._LAST_S = 4.0, 2.0
    hard = {"none": [math.nan, -math.inf, 0.1, 2**63, None], "long": "\ud800ü" * 3_000_000}
    if ranks.follows:
        messages = ranks.messages()
        ranks.reply(next(messages))
        next(messages)
        if ranks.place.rank == 1 and how == "fails":
            raise TaskError("no rows here", hint="put them there")
        if ranks.place.rank == 1:
            time.sleep(60)
        ranks.reply(None)
        return next(messages)
    ranks.send("first", **hard)
    assert [str(reply) for reply in ranks.replies()] == [str({"do": "first", **hard})] * 2
    ranks.send("second")
    with ranks.heeding():
        time.sleep(0 if how == "hangs" else 60)  # as a member that takes long
    return ranks.replies()


@pytest.mark.parametrize(
    ("how", "says"), [("fails", "no rows here"), ("hangs", "it hangs: 4 s after rank 0")]
)
def test_a_rank_that_fails_or_hangs_ends_the_others_wherever_they_are(how, says):
    began = time.monotonic()

    leader, *followers = on_ranks(3, tell_and_fail, how)

    assert time.monotonic() - began < 40
    assert str(leader.error).startswith(f"rank 1 of 3: {says}")
    assert leader.error.hint
    assert [one.code for one in followers] == [1, 1]
    assert all(one.error is None or one.error.quiet for one in followers)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_groups_are_dealt_in_turn_to_ranks_that_are_alike(world):
    shares = deal([2] * 7, [0.5] * world)

    assert shares == [[*range(rank, 7, world)] for rank in range(world)]


def test_a_rank_that_is_three_times_as_slow_gets_a_third():
    shares = deal([1] * 40, [1.0, 3.0])

    assert [len(share) for share in shares] == [30, 10]
    assert sorted(itertools.chain(*shares)) == [*range(40)]


class Canned:
    """A second rank that rolls out members as the first one, in seconds and batches as told."""

    def __init__(self, seconds, batch):
        self.place, self.sent = Place(world=2), []
        self._seconds, self._batch = seconds, batch

    def send(self, do, **what):
        self.sent.append((do, what))

    def replies(self, busy=0.0):
        _, what = self.sent[-1]
        made = [vars(result_of(seed)) for seed, _ in what["members"][1]]
        reply = {"results": [[one] for one in made], "seconds": self._seconds}
        return [reply | {"batch": self._batch, "peak_memory": 7, "kls": None}]

    heeding = staticmethod(nullcontext)


def result_of(seed):
    return RowResult(reward=seed / 7 if seed else math.nan, correct=None, answers=(str(seed),))


class Alone(Population):
    def roll_out(self, members, rows, on_members, laps):
        for done, _ in enumerate(members, start=1):
            on_members(done)
        return [[result_of(member.seed)] for member in members]


def test_a_rank_short_of_memory_halves_for_all_and_a_slow_one_gets_less_of_the_next_step():
    batches, row, told, halved = Batches(8), object(), [], []
    batches.on_split = halved.append
    base = SimpleNamespace(
        drift=SimpleNamespace(steps=0), loaded=SimpleNamespace(device=torch.device("cpu"))
    )
    rollout = SimpleNamespace(batches=batches)
    session = SimpleNamespace(
        train=[row], rollout=rollout, base=base, batched=None, members_together=1, member_kl=None
    )
    ranks = Canned(seconds=1.0, batch=4)
    spread = Spread(session, Alone(session), ranks)
    members = [Member(seed) for seed in range(10)]

    steps = [
        spread.roll_out(members, [row], told.append, Laps(torch.device("cpu"))) for _ in range(120)
    ]

    alone = [[result_of(seed)] for seed in range(10)]
    assert str(steps) == str([alone] * 120)  # as text NaN equals NaN
    assert told[:15] == [2, 4, 6, 8, 10] * 2 + [1, 2, 3, 4, 5]
    assert (halved, batches.size, ranks.sent[-1][1]["batch"]) == ([4], 4, 4)
    # The first step compiles, and tells nothing of the second; a slow rank is tried again.
    dealt = [len(what["members"][1]) for _, what in ranks.sent]
    assert dealt[:4] == [5, 5, 0, 0]
    assert 0 < sum(dealt[4:]) < 60
    assert [share.members for share in spread.shares] == [10 - dealt[-1], dealt[-1]]
