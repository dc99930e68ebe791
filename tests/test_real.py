"""The main job on the real small model that ESFT_TEST_MODEL names."""

import json
import os

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from esft.cli import main
from esft.engine import Drift, Member, Weights, perturbed
from esft.engine.identity import identity
from esft.engine.perturb import unmoved_share
from esft.models import load_model
from esft.rollout import Rollout
from esft.tasks import get_task
from esft.tasks.rows import split_rows

MODEL = os.environ.get("ESFT_TEST_MODEL")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(MODEL is None, reason="ESFT_TEST_MODEL names no model"),
]


@pytest.fixture(scope="module")
def loaded():
    return load_model(MODEL, dtype="bfloat16", device="cpu")


@pytest.fixture(scope="module")
def questions():
    return split_rows(get_task("conciseness"), 8, 8)


def test_members_and_steps_leave_every_bit_of_the_real_model_where_it_belongs(loaded):
    before = identity(loaded.model)
    weights = Weights(loaded.model)

    with perturbed(weights, Member(1), 6e-3, revert="log"):
        logged = identity(loaded.model)
    assert identity(loaded.model) == before
    drift = Drift(weights, dtype="float16")
    with perturbed(weights, Member(1), 6e-3):
        restored = identity(loaded.model)
    assert identity(loaded.model) == before
    assert before != logged == restored

    drift.step([Member(1), Member(2)], [1.0, -1.0], alpha=4e-3)
    assert identity(loaded.model) != before
    with drift.at_base():
        assert identity(loaded.model) == before
    # Two opposite coefficients of orthogonal noises: ||D|| is alpha / 2 * sqrt(2 d).
    assert drift.norm() == pytest.approx(2e-3 * (2 * weights.numel) ** 0.5, rel=0.01)

    drift.step([], [], alpha=1.0, decay=1.0, norm="l2")
    assert drift.norm() == 0
    assert identity(loaded.model) == before


def test_the_share_that_a_small_sigma_does_not_move_is_as_measured(loaded):
    share = unmoved_share(Weights(loaded.model), Member(0), 1e-3)

    # The design measured 28 % on this model in bfloat16; it is a property of the weights.
    assert share == pytest.approx(0.28, abs=0.03)


def test_the_real_model_knows_some_answers_and_is_not_concise(loaded, questions):
    rollout = Rollout(loaded.model, loaded.tokenizer, get_task("conciseness"), max_new_tokens=24)

    results = rollout.score(rollout.prepare(questions.holdout))

    assert sum(result.correct for result in results) >= 2
    assert all(result.answer.strip() for result in results)
    assert 0 < sum(result.reward for result in results) / len(results) < 0.95


def test_a_tuned_real_model_loads_and_answers_as_it_did(tmp_path):
    run = tmp_path / "out"

    done = CliRunner().invoke(
        main,
        [
            "tune", "--model", MODEL, "--task", "conciseness", "--steps", "1", "--population", "2",
            "--sigma", "0.006", "--alpha", "0.004", "--awd", "0.01", "--seed", "1",
            "--dtype", "bfloat16", "--device", "cpu", "--set", "task.train=4",
            "--set", "task.holdout=6", "--set", "task.max_new_tokens=12", "--run-dir", str(run),
        ],
    )  # fmt: skip

    assert done.exit_code == 0, done.stderr
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert model.dtype == torch.bfloat16
    rows = split_rows(get_task("conciseness"), 4, 6).holdout
    rollout = Rollout(model, tokenizer, get_task("conciseness"), max_new_tokens=12)
    answers = [result.answer for result in rollout.score(rollout.prepare(rows))]
    recorded = (run / "evals" / "conciseness-1.jsonl").read_text().splitlines()
    assert answers == [json.loads(line)["answer"] for line in recorded]
