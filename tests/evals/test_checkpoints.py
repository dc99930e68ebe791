"""Any two checkpoints: the page of a run for models that esft did not make."""

import gc
import json
import math
import weakref
from dataclasses import replace

import pytest
import torch
from rank_runs import measure, on_ranks
from tiny_models import VOCABULARY, change_weights, tiny_llama, tiny_qwen2, tiny_tokenizer
from tiny_models import write_model as write
from tiny_runs import Notes, a_recipe, never
from tokenizers import Tokenizer

from esft.errors import ModelError, RecipeError, RunError
from esft.evals.run import EvalRequest, run_eval
from esft.export.folder import export
from esft.models.load import load_model
from esft.recipe.settings import Prior
from esft.rollout.rollout import Rollout
from esft.tuning.rebuild import RebuildOptions, find_source
from esft.tuning.start import run_tuning

PRIORS = (
    "copy-letters:8 reward=logprob",
    "reverse-letters:6",
    "upper-letters:5 scoring=generate max_new_tokens=6",
)
AMOUNT = {"kl_prompts": 3, "kl_tokens": 5, "device": "cpu"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a base and of two models that came from it, the second one further away."""
    folder = tmp_path_factory.mktemp("models")

    def away(scale):
        def change(weights):
            draw = torch.Generator().manual_seed(0)
            for weight in weights.values():
                weight += scale * torch.randn(weight.shape, generator=draw)

        return change

    for name, scale in (("base", 0.0), ("near", 0.003), ("far", 0.03)):
        change_weights(write(folder / name), away(scale))
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def loads(monkeypatch):
    """The names of the models that were loaded; no other has weights by then."""
    models, names = [], []

    def loading(name, **options):
        gc.collect()
        left = [model for reference in models if (model := reference()) is not None]
        assert not any(parameter.numel() for model in left for parameter in model.parameters())
        loaded = load_model(name, **options)
        models.append(weakref.ref(loaded.model))
        names.append(name.rpartition("/")[2])
        return loaded

    monkeypatch.setattr("esft.evals.checkpoints.load_model", loading)
    return names


@pytest.fixture
def scored(monkeypatch):
    """The numbers of rows that were scored, call by call."""
    calls, evaluate = [], Rollout.evaluate
    monkeypatch.setattr(
        Rollout, "evaluate", lambda self, rows: calls.append(len(rows)) or evaluate(self, rows)
    )
    return calls


def asked(folder, *names, base="base", **changes):
    named = {"base": str(folder / base), "models": tuple(str(folder / name) for name in names)}
    return EvalRequest(**(named | AMOUNT | {"priors": PRIORS[:2]} | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_exported_model_is_measured_as_the_run_it_came_from(tmp_path, dtype):
    made = a_recipe(tmp_path, model=tiny_llama(dtype=dtype))
    run_tuning(replace(made, prior=Prior(tasks=PRIORS)), Notes(), never)
    source = find_source(str(tmp_path / "run"))
    export(source, "last", tmp_path / "out", Notes(), RebuildOptions())

    of_run = run_eval(EvalRequest(run=str(tmp_path / "run"), **AMOUNT), Notes())
    apart = run_eval(asked(tmp_path, "out", priors=PRIORS), Notes())

    assert apart.record.base == of_run.record.base
    assert apart.path is None
    assert apart.record.noise_floor is None or of_run.record.noise_floor is not None
    pairs = list(zip(of_run.measured[1:], apart.measured, strict=True))
    assert [one.task.name for _, one in pairs] == [line.split(":")[0] for line in PRIORS]
    for one, other in pairs:
        assert other.evaluations == one.evaluations  # to the row, answers and rewards too
    for one, other in zip(of_run.record.tasks[1:], apart.record.tasks, strict=True):
        assert other.verdict == replace(one.verdict, text=other.verdict.text)
        (change,), (expected,) = other.comparisons, one.comparisons
        assert replace(change, step=3) == expected
        (pair,), (same) = other.kl, one.kl[0]
        assert replace(pair, step=3) == same  # the same prompts and seeds: not even rounding
        assert pair.base_to_tuned.kl > 0
    (drift,), (expected,) = apart.record.drift, of_run.record.drift
    assert drift.forecast is None
    assert drift.unmoved_share == expected.unmoved_share
    assert drift.norm == pytest.approx(expected.norm, rel=1e-2 if dtype.itemsize == 2 else 1e-3)


def test_a_series_is_measured_in_its_order_with_one_model_in_memory_and_once(models, loads, scored):
    notes = Notes()

    first = run_eval(asked(models, "far", "near"), notes).record

    assert loads == ["base", "far", "base", "far", "near", "base", "near"]
    assert sorted(scored) == [6] * 3 + [8] * 3
    assert first.steps == (0, 1, 2)
    assert [(one.step, one.id.rpartition("/")[2]) for one in first.models] == [
        (1, "far"),
        (2, "near"),
    ]
    assert first.drift[0].norm > 5 * first.drift[1].norm > 0
    for task in first.tasks:
        assert [score.step for score in task.evaluations] == [0, 1, 2]
        far, near = (pair.base_to_tuned.kl for pair in task.kl)
        assert far > 5 * near > 0
    del loads[:], scored[:]
    again = run_eval(asked(models, "far", "near"), Notes()).record
    assert again == first
    assert (loads, scored) == (["base", "far", "near"], [])  # to know which weights they are


def test_a_task_more_is_all_that_is_measured_beside_what_was(models, loads):
    run_eval(asked(models, "near"), Notes())
    notes = Notes()

    run_eval(asked(models, "near", priors=(*PRIORS[:2], "upper-letters:4")), notes)

    told = [phase for phase in notes.phases if not phase.startswith("loading")]
    assert told == [
        "step 0: upper-letters, 4 rows",
        "step 1: upper-letters, 4 rows",
        "step 1: KL on 3 prompts of upper-letters",
    ]


def test_what_a_model_scores_is_what_it_scores_by_itself(models, scored):
    priors = PRIORS[:2]
    alone = EvalRequest(models=(str(models / "far"),), priors=priors, device="cpu")
    by_itself = run_eval(alone, Notes())
    del scored[:]

    measured = run_eval(asked(models, "far"), Notes()).measured

    assert sorted(scored) == [6, 8]  # of the base alone
    for one, other in zip(by_itself.measured, measured, strict=True):
        assert one.evaluations[0] == other.evaluations[1]


def test_a_copy_of_the_base_is_0_away_from_it(models, tmp_path):
    write(tmp_path / "copy", load_model(str(models / "base"), device="cpu").model)

    record = run_eval(asked(models, str(tmp_path / "copy")), Notes()).record

    assert (record.drift[0].norm, record.drift[0].unmoved_share) == (0.0, 1.0)
    for task in record.tasks:
        for estimate in (task.kl[0].base_to_tuned, task.kl[0].tuned_to_base):
            assert (estimate.kl, estimate.far) == (0.0, 0.0)


def test_a_base_that_cannot_be_mapped_leaves_the_distance_out(models, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "file"))
    notes, request = Notes(), asked(models, "near", dtype="bfloat16")

    record = run_eval(request, notes).record

    assert record.drift == ()
    assert len(record.tasks[0].kl) == 1
    assert notes.notices[0].startswith("no distance of the weights: the base weights: ")


def test_of_another_architecture_the_parameters_in_both_are_compared(models, tmp_path):
    write(tmp_path / "qwen", tiny_qwen2())
    write(tmp_path / "wide", tiny_llama(hidden_size=64))

    record = run_eval(asked(models, *map(str, (tmp_path / "qwen", tmp_path / "wide"))), Notes())

    qwen, wide = record.record.drift
    assert qwen.norm > 0
    assert len(qwen.unmatched) == 2 * 3  # the biases of q, k and v of each layer
    assert all(name.endswith("_proj.bias") for name in qwen.unmatched)
    assert math.isnan(wide.norm)
    assert len(wide.unmatched) == len(dict(tiny_llama().named_parameters()))
    assert all(len(task.kl) == 2 for task in record.record.tasks)


def test_what_else_differs_from_the_base_is_said(models, tmp_path):
    tokenizer = tiny_tokenizer(chat_template=False)
    model = tiny_llama(vocab_size=len(VOCABULARY) + 3)
    model.generation_config.eos_token_id = [0, 2]
    write(tmp_path / "other", model, tokenizer)

    request = asked(models, str(tmp_path / "other"), "near", dtype="float32")
    record = run_eval(request, Notes()).record

    other, near = record.models
    assert other.notes == (
        "has another chat template than the base: asked in that of the base",
        "its answers end at <|endoftext|>, <|im_end|>, the base's at <|im_end|>",
        "chooses among 264 tokens, the base among 261: no KL",
    )
    assert near.notes == ()
    assert [[pair.step for pair in task.kl] for task in record.tasks] == [[2], [2]]
    assert "model.embed_tokens.weight" in record.drift[0].unmatched


def test_models_are_measured_each_in_its_dtype(models, tmp_path):
    write(tmp_path / "half", load_model(str(models / "base"), dtype="bfloat16").model)

    apart = run_eval(asked(models, str(tmp_path / "half")), Notes()).record
    alike = run_eval(asked(models, str(tmp_path / "half"), dtype="bfloat16"), Notes()).record

    assert apart.models[0].notes == ("in bfloat16, the base in float32",)
    assert 0 < apart.drift[0].norm < 0.1
    assert (alike.models[0].notes, alike.drift[0].norm) == ((), 0.0)
    assert alike.noise_floor is not None


def write_tokenizer(folder, change):
    """A model whose tokenizer is the tiny one, but for what `change` does to its file's content."""
    tokenizer = tiny_tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    change(content)
    tokenizer = type(tokenizer)(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        **tokenizer.special_tokens_map,
    )
    return str(write(folder, tokenizer=tokenizer))


def exchange_two(content):
    vocabulary = content["model"]["vocab"]
    vocabulary["b"], vocabulary["c"] = vocabulary["c"], vocabulary["b"]


def test_another_tokenizer_is_refused_with_what_differs(models, tmp_path, loads):
    exchanged = write_tokenizer(tmp_path / "exchanged", exchange_two)
    number = tiny_tokenizer()("b")["input_ids"][0]

    with pytest.raises(
        ModelError, match=rf"token {number} is 'c', expected 'b' \(2 of 261 "
    ) as told:
        run_eval(asked(models, exchanged), Notes())
    with pytest.raises(ModelError, match="embedded has another tokenizer than"):
        run_eval(asked(models, "near", models=("embedded",)), Notes())

    assert told.value.hint
    assert loads == []  # no model is read for it


def test_a_tokenizer_that_splits_otherwise_is_refused_by_the_row(models, tmp_path):
    unmerged = write_tokenizer(tmp_path / "m", lambda content: content["model"].update(merges=[]))
    (tmp_path / "own.jsonl").write_text(
        "\n".join(
            json.dumps({"prompt": "a" + "b" * n, "answer": "b", "split": "test"}) for n in range(3)
        )
    )
    own = f"{tmp_path / 'own.jsonl'}:3 grader=exact"

    with pytest.raises(ModelError, match=r"splits row .* of own into other tokens than ") as told:
        run_eval(asked(models, unmerged, priors=(own,)), Notes())

    assert told.value.hint


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"models": ()}, "expected a --model to compare with it"),
        ({"run": "tiny"}, "RUN is tiny and --base .*, expected one of them"),
        ({"base": None, "models": ("a", "b")}, "--model is given 2 times, expected once"),
        ({"at": "3"}, "--at is 3, expected none"),
        ({"priors": ()}, "no prior task is named"),
        ({"models": ("near", "near/../near")}, "near/../near is named twice"),
        ({"models": ("base",)}, "base is named twice, expected models that differ"),
        ({"models": ("./none",)}, "model ./none: no such file or folder"),
        ({"priors": ("arc:5",), "data_dir": "."}, "no task can be measured: arc: "),
    ],
)
def test_what_cannot_be_is_refused(models, monkeypatch, changes, error):
    monkeypatch.chdir(models)
    monkeypatch.delenv("ESFT_DATA_DIR", raising=False)
    request = EvalRequest(base="base", models=("near",), priors=PRIORS[:2], device="cpu")

    with pytest.raises((RecipeError, ModelError, RunError), match=error) as told:
        run_eval(replace(request, **changes), Notes())

    assert told.value.hint


@pytest.mark.parametrize("load", ["nf4", "int8"])
def test_checkpoints_can_be_measured_as_loaded_in_fewer_bits(tmp_path, load):
    sizes = {"hidden_size": 64, "intermediate_size": 128}  # bitsandbytes packs rows of at least 64
    for seed, name in enumerate(("base", "other")):
        write(tmp_path / name, tiny_llama(seed=seed, **sizes))
    request = asked(tmp_path, "other", priors=("conciseness:4 reward=logprob",))

    plain, loaded = (run_eval(replace(request, load=how), Notes()).record for how in (None, load))

    rewards = [[score.reward for score in one.tasks[0].evaluations] for one in (plain, loaded)]
    assert len({*rewards[0], *rewards[1]}) == 4
    assert rewards[1] == pytest.approx(rewards[0], rel=0.1)
    assert (loaded.load, loaded.drift, loaded.tasks[0].kl) == (load, (), ())
    assert loaded.models == plain.models


def test_ranks_measure_what_one_process_measures(models):
    request = asked(models, "near", "far", priors=PRIORS[1:], samples=3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a rank has
    try:
        alone = run_eval(request, Notes()).record
    finally:
        torch.set_num_threads(threads)

    leader, follower = on_ranks(2, measure, request)

    assert (leader.code, follower.code) == (0, 0)
    assert leader.value == alone
    assert len(alone.tasks[1].kl) == len(alone.drift) == 2
    assert [len(task.passes) for task in alone.tasks] == [0, 3]
