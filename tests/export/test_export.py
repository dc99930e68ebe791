"""An exported step: the tuned model, proven in a new process, or nothing at all."""

import shutil
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from tiny_models import (
    VOCABULARY,
    change_config,
    change_weights,
    logits_of,
    same_weights,
    tiny_llama,
    write_model,
)
from tiny_runs import Notes, a_recipe, never, write_arc
from transformers import AutoModelForCausalLM

from esft.errors import RunError
from esft.export import check as export_check
from esft.export import figures as export_figures
from esft.export import folder as module
from esft.export import prompts as export_prompts
from esft.export.figures import NEW_TOKENS, figures
from esft.export.folder import export
from esft.export.journal import export_journal
from esft.export.prompts import PROMPTS, Prompt, find_prompts
from esft.models.load import load_model
from esft.tuning.rebuild import find_source, rebuild
from esft.tuning.start import run_tuning

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WEIGHTS = "its weights are not those that were written"
TOKENS = "its tokenizer splits the prompts otherwise"


def a_run(folder, name="conciseness", **settings):
    """Tune a tiny model in `folder` for a few steps; return the name of its run."""
    recipe = a_recipe(folder, population=2, **settings)
    run_tuning(replace(recipe, task=replace(recipe.task, name=name)), Notes(), never)
    return str(folder / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps on a tied Llama in float32."""
    return a_run(tmp_path_factory.mktemp("one"))


@pytest.fixture
def in_process(monkeypatch):
    """The check in the test's own process, of less: a new one takes seconds."""
    monkeypatch.setattr(export_figures, "NEW_TOKENS", 4)
    monkeypatch.setattr(export_prompts, "PROMPTS", 8)
    monkeypatch.setattr(module, "check_anew", export_check.check)


def exported(run, out, at="last", **options):
    return export(find_source(run), at, out, Notes(), **options)


def tampered(monkeypatch, change):
    """Let `change` edit the folder after the model was written to it."""
    write = module.write_model
    monkeypatch.setattr(
        module, "write_model", lambda loaded, folder: (write(loaded, folder), change(folder))
    )


def flip_a_bit(weights):
    weights["model.norm.weight"].view(torch.uint8)[0] ^= 1


def write_template(folder, text):
    (folder / "chat_template.jinja").write_text(text)


def test_the_model_is_loaded_again_in_a_new_process_wherever_it_is_called(
    run, tmp_path, monkeypatch
):
    (tmp_path / "torch.py").write_text("raise RuntimeError('found in the current folder')")
    monkeypatch.chdir(tmp_path)

    done = exported(run, tmp_path / "out")

    found = done.comparison
    assert found.exact
    assert found.finite
    assert (found.prompts, found.same_answers) == (PROMPTS, PROMPTS)
    assert found.logits == found.positions * 261
    assert done.tuned.recorded
    assert done.weights == done.tuned.weights
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "torch.py"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_folder_holds_every_bit_of_the_tuned_model(tied, dtype, tmp_path, in_process):
    run = a_run(tmp_path, model=tiny_llama(tied=tied, dtype=dtype))

    done = exported(run, tmp_path / "out")

    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert done.comparison.exact
    assert same_weights(again, saved)
    assert logits_of(again).equal(logits_of(saved))


def test_any_step_is_exported(run, tmp_path, in_process):
    first = exported(run, tmp_path / "first", at="1")
    again = exported(run, tmp_path / "again", at="1", from_base=True)
    base = exported(run, tmp_path / "base", at="0")

    assert first.weights == again.weights == rebuild(find_source(run), "1", Notes()).weights
    assert base.weights == base.tuned.base_weights
    assert base.tuned.drift == 0 < first.tuned.drift
    assert not first.tuned.recorded


def test_a_journal_alone_is_exported_with_its_base_model(run, tmp_path, in_process):
    export_journal(find_source(run), "last", tmp_path / "mailed.jsonl", Notes())

    done = exported(str(tmp_path / "mailed.jsonl"), tmp_path / "out")

    assert done.comparison.exact
    assert done.tuned.recorded
    assert done.prompts == "8 questions of conciseness, which come with esft"


@pytest.mark.parametrize(
    ("tuned", "dtype"),
    [(torch.float32, "bfloat16"), (torch.float32, "float16"), (torch.bfloat16, "float32")],
)
def test_weights_are_converted_and_the_difference_is_said(tuned, dtype, tmp_path, in_process):
    run = a_run(tmp_path, model=tiny_llama(dtype=tuned))

    done = exported(run, tmp_path / "out", dtype=dtype)

    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    found = done.comparison
    assert same_weights(again, saved.to(getattr(torch, dtype)))
    assert (done.dtype, done.converted, found.same_weights) == (dtype, True, True)
    assert done.weights != done.tuned.weights
    assert 0 < found.largest_difference < 0.5
    assert 0 < found.mean_kl < 0.01
    assert found.same_answers <= found.prompts


def test_the_dtype_of_the_run_converts_nothing(run, tmp_path, in_process):
    done = exported(run, tmp_path / "out", dtype="float32")

    assert not done.converted
    assert done.comparison.exact


def test_a_weight_too_large_for_the_dtype_is_refused(tmp_path, in_process):
    model = tiny_llama(tied=False)
    model.lm_head.weight.data[0, 0] = 1e6
    run = a_run(tmp_path, model=model)

    with pytest.raises(RunError, match=r"lm_head.weight has weights up to 1e\+06") as caught:
        exported(run, tmp_path / "out", dtype="float16")

    assert caught.value.hint.startswith("take --dtype bfloat16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


def test_logits_that_overflow_in_the_dtype_are_refused(tmp_path, in_process):
    model = tiny_llama(tied=False)
    model.lm_head.weight.data *= 1e5  # the weights fit, their products with activations do not
    run = a_run(tmp_path, model=model)

    with pytest.raises(RunError, match="gives NaN or infinite logits"):
        exported(run, tmp_path / "out", dtype="float16")

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dtype", "change", "said"),
    [
        (None, lambda folder: change_weights(folder, flip_a_bit), WEIGHTS),
        ("bfloat16", lambda folder: change_weights(folder, flip_a_bit), WEIGHTS),
        (None, lambda folder: change_config(folder, rms_norm_eps=1e-3), "its logits differ by up"),
        (None, lambda folder: write_template(folder, "{{ messages }}"), TOKENS),
        ("bfloat16", lambda folder: write_template(folder, "{{ messages }}"), TOKENS),
    ],
)
def test_a_folder_that_is_not_the_tuned_model_is_refused(
    dtype, change, said, run, tmp_path, monkeypatch, in_process
):
    tampered(monkeypatch, change)

    with pytest.raises(RunError, match=said):
        exported(run, tmp_path / "out", dtype=dtype)

    assert list(tmp_path.iterdir()) == []


def test_a_new_process_that_fails_is_told_by_its_last_line(run, tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], returncode=1, stderr="a trace\nout of memory\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: failed)

    with pytest.raises(RunError, match=r"a new process fails with it: out of memory") as caught:
        exported(run, tmp_path / "out")

    assert "nothing was left" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_loaded_again_is_refused(run, tmp_path, monkeypatch):
    def check_in_this_process(folder, work):
        monkeypatch.setattr(sys, "argv", ["esft.export.check", str(folder), str(work)])
        export_check.main()

    monkeypatch.setattr(module, "check_anew", check_in_this_process)
    tampered(monkeypatch, lambda folder: (folder / "tokenizer.json").write_text("{"))

    with pytest.raises(SystemExit, match=r"its tokenizer cannot be read") as caught:
        exported(run, tmp_path / "out")

    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_stop_during_the_comparison_leaves_nothing(run, tmp_path, monkeypatch):
    def stop(folder, work):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "check_anew", stop)

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        exported(run, tmp_path / "out")

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(run, tmp_path, in_process):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    source = find_source(run)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # the weights take 100 kB
    try:
        with pytest.raises(RunError, match="cannot be written"):
            export(source, "last", tmp_path / "out", Notes())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused_before_anything_is_loaded(run, tmp_path):
    notes = Notes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("text")

    with pytest.raises(RunError, match="exists, expected a new or an empty folder"):
        export(find_source(run), "last", tmp_path / "out", notes)

    assert notes.phases == []
    assert (tmp_path / "out" / "mine").read_text() == "text"


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_tuned_model_is_let_go_before_the_new_process_loads_its_own(
    dtype, run, tmp_path, monkeypatch
):
    models, alive = [], []
    build = module.rebuild

    def keeping_an_eye_on(*args, **options):
        rebuilt = build(*args, **options)
        models.append(weakref.ref(rebuilt.base.loaded.model))
        return rebuilt

    def looking(folder, work):
        alive.append(models[0]() is not None)
        return export_check.check(folder, work)

    monkeypatch.setattr(module, "rebuild", keeping_an_eye_on)
    monkeypatch.setattr(module, "check_anew", looking)

    exported(run, tmp_path / "out", dtype=dtype)

    assert alive == [False]


def test_prompts_are_the_holdout_rows_filled_up_with_other_questions(run):
    found = find_prompts(find_source(run), Notes())

    assert len(found.prompts) == PROMPTS
    assert len({str(prompt) for prompt in found.prompts}) == PROMPTS
    assert found.source == (
        "5 holdout rows of conciseness and 27 questions of conciseness, which come with esft"
    )


@pytest.fixture
def choice_run(tmp_path):
    """A run on a task scored by choice, whose rows lie in a folder."""
    data = str(write_arc(tmp_path / "data"))
    return a_run(tmp_path, "arc", task={"train": 3, "holdout": 4, "data_dir": data})


def test_prompts_of_a_choice_are_what_stands_before_the_options(choice_run, tmp_path, in_process):
    found = find_prompts(find_source(choice_run), Notes())
    done = exported(choice_run, tmp_path / "out")

    assert found.prompts[0].context == "Question: What is validation 0?\nAnswer:"
    assert found.source.startswith("4 holdout rows of arc and 4 questions")
    assert done.comparison.exact


def test_where_the_rows_are_gone_other_questions_are_asked(choice_run, tmp_path):
    notes = Notes()
    shutil.rmtree(tmp_path / "data")

    found = find_prompts(find_source(choice_run), notes)

    assert found.source == "32 questions of conciseness, which come with esft"
    assert "questions of conciseness are compared instead" in notes.notices[0]


def test_prompts_longer_than_the_models_context_are_cut_at_the_front(tmp_path):
    base = write_model(tmp_path / "base", tiny_llama(max_position_embeddings=64))
    long = Prompt(context="a" * 80 + "b" * 20)

    found = figures(load_model(str(base), device="cpu"), (long, Prompt(context="short")))

    letter = {letter: VOCABULARY.index(letter) for letter in "ab"}
    assert found.tokens[0] == (letter["a"],) * 12 + (VOCABULARY.index("ab"),) + (letter["b"],) * 19
    assert len(found.tokens[0]) + NEW_TOKENS <= 64
    assert len(found.tokens[1]) == len("short")
