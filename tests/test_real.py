"""The real small model that ESFT_TEST_MODEL names: it is loaded once, for all of them."""

import json
import os
import shutil
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path

import gguf
import pytest
import torch
from click.testing import CliRunner
from scoring import change_question
from tiny_models import logits_of, same_weights
from tiny_runs import Notes, jsonl, never
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import esft.export.gguf
from esft.cli import main
from esft.engine import Drift, Member, Weights, perturbed
from esft.engine.batched import BatchedModel
from esft.engine.largest import at_largest, largest
from esft.engine.perturb import unmoved_share
from esft.engine.weights import identity
from esft.export.gguf import export_gguf
from esft.models.load import load_model
from esft.models.save import save_model
from esft.recipe.settings import Model, Recipe, Run, Search, TaskSettings
from esft.rollout.batches import Batches
from esft.rollout.encode import encode_prompt
from esft.rollout.generate import greedy_answers
from esft.rollout.rollout import Rollout
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split, split_rows
from esft.tuning.rebuild import RebuildOptions, find_source
from esft.tuning.start import run_tuning

MODEL, DATA = os.environ.get("ESFT_TEST_MODEL"), os.environ.get("ESFT_DATA_DIR")
FILES = Path(__file__).parent / "tasks" / "files"
RECORDED = json.loads((Path(__file__).parent / "harness" / "scores.json").read_text())
"""Option scores of lm-evaluation-harness, recorded by tests/harness/compare.py."""
CHAT = [{"role": "user", "content": "What is the capital of France?"}]
TEXTS = (
    "Héllo, the cab!<|im_end|>\n",
    "def f(x):\n    return  x**2  # 12345 naïve 東京 🙂\t\r\n",
)
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(MODEL is None, reason="ESFT_TEST_MODEL names no model"),
]


@pytest.fixture(scope="module")
def exact():
    """In float32: several times as fast as bfloat16 where the processor has none. Read once."""
    return load_model(MODEL, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def loaded(exact):
    """In bfloat16, as it is tuned."""
    model = deepcopy(exact.model)
    for parameter in model.parameters():  # and no buffer
        parameter.data = parameter.data.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    return replace(exact, model=model, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def questions():
    return split_rows(get_task("conciseness"), 8, 8)


@pytest.fixture(scope="module")
def saved(loaded, tmp_path_factory):
    """The model in bfloat16 as a folder, which loads at once; 270 MB."""
    folder = tmp_path_factory.mktemp("saved")
    save_model(loaded, folder)
    yield folder
    shutil.rmtree(folder)


def test_the_real_model_saved_is_the_same_model(loaded, saved):
    again = AutoModelForCausalLM.from_pretrained(saved)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert same_weights(again, loaded.model)
    assert logits_of(again).equal(logits_of(loaded.model))
    for text in TEXTS:
        assert tokenizer(text).input_ids == loaded.tokenizer(text).input_ids
    assert tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == (
        loaded.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    )


def test_members_and_steps_leave_every_bit_of_the_real_model_where_it_belongs(loaded):
    before = identity(loaded.model)
    weights = Weights(loaded.model)

    with perturbed(weights, Member(1), 6e-3, revert="log"):
        logged = identity(loaded.model)
    assert identity(loaded.model) == before
    drift = Drift(weights, dtype="float16")
    with perturbed(weights, Member(1), 6e-3, drift):
        restored = identity(loaded.model)
    assert identity(loaded.model) == before
    assert before != logged == restored

    drift.step([Member(1), Member(2)], [1.0, -1.0], alpha=4e-3)
    stepped = identity(loaded.model)
    assert stepped != before
    with drift.at_base():
        assert identity(loaded.model) == before
    # Of a normal law the largest tenth lies beyond 1.645 deviations, with 0.439 of the squares.
    (tenth,) = largest(drift, [10])
    assert tenth.share == pytest.approx(0.1, abs=1e-3)
    assert tenth.least == pytest.approx(1.645 * drift.norm() / weights.numel**0.5, rel=0.01)
    assert tenth.norm**2 == pytest.approx(0.439 * drift.norm() ** 2, rel=0.01)
    with at_largest(drift, tenth.least):
        assert identity(loaded.model) not in (before, stepped)
    assert identity(loaded.model) == stepped
    # Two opposite coefficients of orthogonal noises: ||D|| is alpha / 2 * sqrt(2 d).
    assert drift.norm() == pytest.approx(2e-3 * (2 * weights.numel) ** 0.5, rel=0.01)

    drift.step([], [], alpha=1.0, decay=1.0, norm="l2")
    assert drift.norm() == 0
    assert identity(loaded.model) == before


def test_the_share_that_a_small_sigma_does_not_move_is_as_measured(loaded):
    share = unmoved_share(Weights(loaded.model), Member(0), 1e-3)

    # The design measured 28 % on this model in bfloat16; it is a property of the weights.
    assert share == pytest.approx(0.28, abs=0.03)


def test_members_of_the_real_model_answer_in_one_batch_as_alone(exact, questions):
    weights, sigma = Weights(exact.model, rank=1), 6e-3
    members, before = [Member(1), Member(1, -1)], identity(exact.model)
    task = get_task("conciseness")
    alone = Rollout(exact.model, exact.tokenizer, task, max_new_tokens=6)
    batched = BatchedModel(exact.model, weights)
    together = replace(alone, model=batched)
    rows = alone.encode(questions.holdout[:2])

    with batched.members(members, sigma):
        shared = together.roll_out([row.of(at) for at in range(2) for row in rows])

    results = []
    for member in members:
        with perturbed(weights, member, sigma):
            results += alone.roll_out(rows)
    assert [one.answers for one in shared] == [one.answers for one in results]
    rewards = [one.reward for one in results]
    assert [one.reward for one in shared] == pytest.approx(rewards, rel=1e-4)
    assert results[:2] != results[2:]  # members differ
    assert identity(exact.model) == before


def test_the_real_model_knows_some_answers_and_is_not_concise(exact, questions):
    rollout = Rollout(exact.model, exact.tokenizer, get_task("conciseness"), max_new_tokens=24)

    results = rollout.roll_out(rollout.encode(questions.holdout))

    assert sum(result.correct for result in results) >= 2
    assert all(result.answers[0].strip() for result in results)
    assert 0 < sum(result.reward for result in results) / len(results) < 0.95


def test_a_tuned_real_model_loads_and_answers_as_it_did(loaded, saved, tmp_path):
    run = tmp_path / "out"

    done = CliRunner().invoke(
        main,
        [
            "tune", "--model", str(saved), "--task", "conciseness", "--steps", "1",
            "--population", "2",
            "--sigma", "0.006", "--alpha", "0.004", "--awd", "0.01", "--seed", "1",
            "--dtype", "bfloat16", "--device", "cpu", "--set", "task.train=1",
            "--set", "task.holdout=2", "--set", "task.max_new_tokens=4", "--run-dir", str(run),
        ],
    )  # fmt: skip

    assert done.exit_code == 0, done.stderr
    info = json.loads((run / "run.json").read_text())
    assert info["model"]["base"] == identity(loaded.model)
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert model.dtype == torch.bfloat16
    rows = split_rows(get_task("conciseness"), 1, 2).holdout
    rollout = Rollout(model, tokenizer, get_task("conciseness"), max_new_tokens=4)
    answers = [list(result.answers) for result in rollout.roll_out(rollout.encode(rows))]
    recorded = (run / "evals" / "conciseness-1.jsonl").read_text().splitlines()
    assert answers == [json.loads(line)["answers"] for line in recorded]


def tensors_in(file):
    """Bytes of each tensor of a .gguf file, and the type of its blocks."""
    return {one.name: (one.data, one.tensor_type.name) for one in gguf.GGUFReader(file).tensors}


@pytest.mark.skipif(not str(MODEL).endswith(".gguf"), reason="ESFT_TEST_MODEL is no .gguf file")
def test_codes_of_the_real_file_are_tuned_and_go_back_into_its_blocks(tmp_path, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "tuned.gguf"
    recipe = Recipe(
        model=Model(id=MODEL, device="cpu", weights="codes", dtype="float32"),
        task=TaskSettings(name="conciseness", train=2, holdout=2, max_new_tokens=4),
        search=Search(steps=1, population=2, seed=1, sigma=0.01, alpha=2.5),
        run=Run(dir=str(run), keep_model=False),
    )
    run_tuning(recipe, Notes(), never)
    kept = keep_results(monkeypatch, esft.export.gguf, "rebuild", "load_model")

    done = export_gguf(find_source(str(run)), "last", out, Notes(), RebuildOptions())

    (metrics,) = jsonl(run / "metrics.jsonl")
    assert 0.0005 < metrics["changed"] < 0.5
    assert (done.type, done.conversion, done.recorded) == ("codes", None, True)
    # Three keys more, in front of tensors that start at a multiple of 32.
    assert 0 <= done.size - Path(MODEL).stat().st_size < 2000
    before, after = tensors_in(MODEL), tensors_in(out)
    assert [*before] == [*after]
    assert [kind for _, kind in before.values()] == [kind for _, kind in after.values()]
    changed = {name for name, (data, _) in before.items() if not (data == after[name][0]).all()}
    parts = {name.split(".")[2] for name in changed}
    assert parts == {f"attn_{x}" for x in ("q", "k", "v", "output")} | {
        f"ffn_{x}" for x in ("gate", "up", "down")
    }
    for name in changed:
        data, kind = before[name]
        assert kind == "Q4_1"
        heads = (one.reshape(-1, 20)[:, :4] for one in (data, after[name][0]))
        assert (next(heads) == next(heads)).all()  # scales and minima
    tuned, again = kept["rebuild"].base.loaded, kept["load_model"]
    assert logits_of(again.model).equal(logits_of(tuned.model))


def keep_results(monkeypatch, module, *names):
    """Return what functions of a module return from now on, the last by name: a load takes long."""
    kept = {}

    def keep(name, plain):
        def keeping(*args, **options):
            kept[name] = plain(*args, **options)
            return kept[name]

        monkeypatch.setattr(module, name, keeping)

    for name in names:
        keep(name, getattr(module, name))
    return kept


def generated(model, prompts, count):
    """The answers of transformers' own `generate` to prompts in one batch."""
    width = max(map(len, prompts))
    padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    output = model.generate(
        input_ids=torch.tensor(padded),
        attention_mask=torch.tensor(mask),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=model.generation_config.eos_token_id,
            pad_token_id=0,
        ),
    )
    return output[:, width:].tolist()


def test_in_float32_answers_of_the_real_model_are_those_of_generate_whatever_leaves(exact):
    short = read_split(get_task("conciseness"), "validation")[8:16]  # two end early
    long = tuple(read_split(get_task("countdown"), "test")[:1])
    prompts = [encode_prompt(exact.tokenizer, row.questions[0]) for row in (*short, *long)]
    seen = []
    counted = exact.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )

    answers = greedy_answers(exact.model, exact.tokenizer, prompts, 10, Batches(64))

    counted.remove()
    assert [answer.tokens for answer in answers] == [
        tuple(tokens[: len(answer.tokens)])
        for answer, tokens in zip(answers, generated(exact.model, prompts, 10), strict=True)
    ]
    stop = exact.model.generation_config.eos_token_id
    assert all(len(answer.tokens) == 10 or answer.tokens[-1] == stop for answer in answers)
    # What the prompts share is read by itself, and rows that are done leave.
    assert max(seen) == 9 > seen[-1]


def test_the_real_model_finds_the_right_solution_likelier_than_that_of_another_question(exact):
    task = get_task("gsm8k")
    rows = read_split(task, "train", FILES)[:3]
    rollout = Rollout(exact.model, exact.tokenizer, task, reward="logprob")
    others = [
        change_question(row, reference=rows[i - 1].questions[0].reference)
        for i, row in enumerate(rows)
    ]

    right, wrong = (
        [result.reward for result in rollout.roll_out(rollout.encode(tuple(each)))]
        for each in (rows, others)
    )

    assert all(a > b for a, b in zip(right, wrong, strict=True))
    assert all(-3 < reward < 0 for reward in right)


@pytest.mark.skipif(DATA is None, reason="ESFT_DATA_DIR is not set")
@pytest.mark.parametrize("name", RECORDED["files"])
def test_log_probabilities_of_all_options_agree_with_those_of_the_harness(name, exact):
    task, expected = get_task(name), RECORDED["logprobs"][name]
    with (Path(DATA) / f"{RECORDED['files'][name]}.jsonl").open(encoding="utf-8") as lines:
        rows = tuple(task.read(json.loads(line)) for line in islice(lines, len(expected)))
    rollout = Rollout(exact.model, exact.tokenizer, task)

    found = rollout.option_logprobs(rollout.encode(rows))

    assert len(rows) >= 8
    # Two ways to batch in float32, sums of up to 60 tokens: 5e-5 apart was seen on 100 rows.
    assert [value for each in found for value in each] == pytest.approx(
        [value for each in expected for value in each], abs=1e-3
    )
